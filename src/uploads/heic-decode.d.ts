declare module 'heic-decode' {
  interface Picture {
    readonly width: number
    readonly height: number
    /** RGBA, 8 bits each. */
    decode(): Promise<{ width: number; height: number; data: Uint8ClampedArray }>
  }
  const heic: { all(input: { buffer: Uint8Array }): Promise<Picture[]> }
  export default heic
}
