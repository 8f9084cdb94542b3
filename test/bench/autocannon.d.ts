/** What load.ts uses of autocannon, which brings no types. */
declare module 'autocannon' {
  namespace autocannon {
    interface Request {
      method?: string
      headers?: Record<string, string>
    }
    interface Options {
      url: string
      method: string
      headers: Record<string, string>
      body?: string
      connections: number
      /** Seconds. */
      duration: number
      requests?: { setupRequest(request: Request): Request }[]
    }
    interface Result {
      duration: number
      '2xx': number
      non2xx: number
      errors: number
      /** ms */
      latency: { p50: number; p99: number }
    }
  }
  function autocannon(options: autocannon.Options): Promise<autocannon.Result>
  export = autocannon
}
