import { deflateSync, crc32 } from 'node:zlib'
import sharp from 'sharp'
import { box, fixture, makeSamples, movie, webm } from './samples.ts'

/** Files that must be refused: 4xx, and nothing of them stays. */
export interface Hostile {
  /** What it is. */
  readonly what: string
  readonly fileName: string
  readonly bytes: Buffer
}

const text = (content: string) => Buffer.from(content, 'latin1')
const zip = Buffer.concat([text('PK\x03\x04'), Buffer.alloc(60, 1), text('PK\x05\x06'), Buffer.alloc(18)])
const SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

export async function makeHostile(): Promise<Hostile[]> {
  return [
    ...(await foreign()),
    ...(await disagreeing()),
    ...(await damaged()),
    ...(await oversized()),
    ...(await polyglots()),
  ]
}

/** Other types, under their own names and under accepted ones. */
async function foreign(): Promise<Hostile[]> {
  const avif = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#fff' } })
    .avif()
    .toBuffer()
  const types: [string, string, Buffer][] = [
    ['SVG', 'svg', text(SVG)],
    ['HTML', 'html', text('<!doctype html><script>alert(1)</script>')],
    ['a Windows program', 'exe', Buffer.concat([text('MZ'), Buffer.alloc(200)])],
    ['a Linux program', 'bin', Buffer.concat([text('\x7fELF'), Buffer.alloc(200)])],
    ['a ZIP', 'zip', zip],
    ['a PDF', 'pdf', text('%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer<<>>\n%%EOF')],
    ['a shell script', 'sh', text('#!/bin/sh\nrm -rf /\n')],
    ['PHP', 'php', text('<?php system($_GET["c"]); ?>')],
    ['gzip', 'gz', Buffer.concat([Buffer.from('1f8b0800', 'hex'), Buffer.alloc(40)])],
    ['7-Zip', '7z', Buffer.concat([Buffer.from('377abcaf271c', 'hex'), Buffer.alloc(40)])],
    ['RAR', 'rar', Buffer.concat([text('Rar!\x1a\x07\x01\0'), Buffer.alloc(40)])],
    ['BMP', 'bmp', Buffer.concat([text('BM'), Buffer.alloc(60)])],
    ['TIFF', 'tiff', Buffer.concat([text('II*\0'), Buffer.alloc(60)])],
    ['AVIF', 'avif', avif],
    ['Matroska', 'mkv', webm('matroska')],
    ['AVI', 'avi', Buffer.concat([text('RIFF\x40\0\0\0AVI LIST'), Buffer.alloc(60)])],
    ['WAV', 'wav', Buffer.concat([text('RIFF\x40\0\0\0WAVEfmt '), Buffer.alloc(60)])],
    ['M4A', 'm4a', movie('M4A ', 'isom')],
  ]
  return types.flatMap(([what, extension, bytes]) => [
    { what: `${what} under its own name`, fileName: `file.${extension}`, bytes },
    { what: `${what} that says it is a picture`, fileName: 'file.jpg', bytes },
  ])
}

/** Accepted formats under each other's names. */
async function disagreeing(): Promise<Hostile[]> {
  const samples = await makeSamples()
  const pairs = [
    ['png', 'x.jpg'],
    ['jpg', 'x.png'],
    ['webp', 'x.png'],
    ['gif', 'x.webp'],
    ['mp4', 'x.mov'],
    ['mov', 'x.mp4'],
    ['webm', 'x.mp4'],
    ['heic', 'x.jpg'],
    ['jpg', 'x.heic'],
    ['png', 'x.png.exe'],
    ['png', 'x.svg'],
  ] as const
  return pairs.map(([sample, fileName]) => ({
    what: `${sample} named ${fileName}`,
    fileName,
    bytes: samples[sample]?.bytes ?? Buffer.alloc(0),
  }))
}

async function damaged(): Promise<Hostile[]> {
  const samples = await makeSamples()
  const all: Hostile[] = []
  for (const [kind, { bytes, fileName }] of Object.entries(samples)) {
    // A recorder's segment has no stated end: any cut is as good as the whole.
    if (kind !== 'recorded')
      all.push({ what: `${kind} cut off in the middle`, fileName, bytes: bytes.subarray(0, bytes.length >> 1) })
    all.push({ what: `the first nine bytes of ${kind}`, fileName, bytes: bytes.subarray(0, 9) })
  }
  const png = samples.png?.bytes ?? Buffer.alloc(0)
  const jpg = samples.jpg?.bytes ?? Buffer.alloc(0)
  all.push(
    { what: 'nothing', fileName: 'empty.png', bytes: Buffer.alloc(0) },
    { what: 'zeros', fileName: 'zeros.jpg', bytes: Buffer.alloc(5_000) },
    {
      what: 'a PNG signature and noise',
      fileName: 'a.png',
      bytes: Buffer.concat([png.subarray(0, 8), Buffer.alloc(900, 0x5a)]),
    },
    {
      what: 'a JPEG marker and text',
      fileName: 'a.jpg',
      bytes: Buffer.concat([jpg.subarray(0, 3), text('hello there')]),
    },
    { what: 'a PNG with a wrong checksum', fileName: 'a.png', bytes: flipped(png, 30) },
    { what: 'a PNG without pixels', fileName: 'a.png', bytes: pngOf(10, 10, []) },
    { what: 'a JPEG without pixels', fileName: 'a.jpg', bytes: Buffer.from('ffd8ffd9', 'hex') },
    { what: 'a GIF without frames', fileName: 'a.gif', bytes: text('GIF89a\x01\0\x01\0\0\0\0;') },
    {
      what: 'a WEBP that lies about its length',
      fileName: 'a.webp',
      bytes: text('RIFF\xff\xff\xff\x7fWEBPVP8 \x0a\0\0\0'),
    },
    {
      what: 'an MP4 without an index',
      fileName: 'a.mp4',
      bytes: Buffer.concat([box('ftyp', 'isom\0\0\0\0isom'), box('mdat')]),
    },
    { what: 'an MP4 with an endless first box', fileName: 'a.mp4', bytes: text('\x7f\xff\xff\xffftypisom\0\0\0\0') },
    { what: 'a HEIC without a picture', fileName: 'a.heic', bytes: box('ftyp', 'heic\0\0\0\0heic') },
    {
      what: 'boxes of size one',
      fileName: 'a.mp4',
      bytes: Buffer.concat([box('ftyp', 'isom\0\0\0\0isom'), text('\0\0\0\x01moov'), Buffer.alloc(8)]),
    },
  )
  return all
}

async function oversized(): Promise<Hostile[]> {
  const manyFrames = Buffer.concat([
    text('GIF89a\x01\0\x01\0\0\0\0'),
    ...Array.from({ length: 1_001 }, () => text(',\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0')),
    text(';'),
  ])
  return [
    { what: 'a PNG of 50,000 × 50,000', fileName: 'bomb.png', bytes: pngOf(50_000, 50_000, [Buffer.alloc(1_000_000)]) },
    { what: 'a PNG of 20,000 × 20,000', fileName: 'bomb.png', bytes: pngOf(20_000, 20_000, [Buffer.alloc(1_000_000)]) },
    {
      what: 'a PNG of 2³¹ − 1 pixels a side',
      fileName: 'bomb.png',
      bytes: pngOf(0x7fff_ffff, 0x7fff_ffff, [Buffer.alloc(10)]),
    },
    { what: 'a PNG without a width', fileName: 'bomb.png', bytes: pngOf(0, 10, [Buffer.alloc(10)]) },
    {
      what: 'a JPEG of 65,535 × 65,535',
      fileName: 'bomb.jpg',
      bytes: Buffer.from('ffd8ffc0000b08ffffffff0101110000ffda000801010000003f0000ffd9', 'hex'),
    },
    {
      what: 'a GIF of 65,535 × 65,535',
      fileName: 'bomb.gif',
      bytes: text('GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;'),
    },
    { what: 'a GIF with 1,001 frames', fileName: 'bomb.gif', bytes: manyFrames },
    {
      what: 'a WEBP of 16,777,216 × 16,777,216',
      fileName: 'bomb.webp',
      bytes: Buffer.concat([text('RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0'), Buffer.alloc(6, 0xff)]),
    },
    {
      what: 'an animated PNG with a billion frames',
      fileName: 'bomb.png',
      bytes: pngOf(10, 10, [Buffer.alloc(400)], chunk('acTL', Buffer.from('3fffffff00000000', 'hex'))),
    },
  ]
}

async function polyglots(): Promise<Hostile[]> {
  const samples = await makeSamples()
  const of = (kind: string) => samples[kind]?.bytes ?? Buffer.alloc(0)
  const pdfJpeg = Buffer.concat([
    of('jpg').subarray(0, 2),
    Buffer.from('fffe0010', 'hex'),
    text('%PDF-1.7\n%%EOF'),
    of('jpg').subarray(2),
  ])
  return [
    { what: 'a PNG and a ZIP', fileName: 'p.png', bytes: Buffer.concat([of('png'), zip]) },
    { what: 'a GIF and a ZIP', fileName: 'p.gif', bytes: Buffer.concat([of('gif'), zip]) },
    { what: 'a JPEG and a ZIP', fileName: 'p.jpg', bytes: Buffer.concat([of('jpg'), zip]) },
    { what: 'a WEBP and a ZIP', fileName: 'p.webp', bytes: Buffer.concat([of('webp'), zip]) },
    {
      what: 'an MP4 with a ZIP in its last box',
      fileName: 'p.mp4',
      bytes: Buffer.concat([of('mp4'), box('free', zip)]),
    },
    { what: 'a WEBM and a ZIP', fileName: 'p.webm', bytes: Buffer.concat([of('webm'), zip]) },
    { what: 'a JPEG and a PDF', fileName: 'p.jpg', bytes: pdfJpeg },
    { what: 'a PNG and HTML', fileName: 'p.png', bytes: Buffer.concat([of('png'), text('<script>alert(1)</script>')]) },
    { what: 'a GIF and JavaScript', fileName: 'p.gif', bytes: Buffer.concat([of('gif'), text('/*;*/alert(1)')]) },
    {
      what: 'a HEIC and a PDF',
      fileName: 'p.heic',
      bytes: Buffer.concat([fixture('quadrants-p3.heic'), text('%PDF-1.7')]),
    },
  ]
}

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[at] = (copy[at] ?? 0) ^ 0xff
  return copy
}

function chunk(type: string, content: Buffer): Buffer {
  const typed = Buffer.concat([text(type), content])
  const frame = Buffer.alloc(4)
  frame.writeUInt32BE(content.length)
  const check = Buffer.alloc(4)
  check.writeUInt32BE(crc32(typed))
  return Buffer.concat([frame, typed, check])
}

/** A well-formed grey PNG of any stated size around any pixels. */
function pngOf(width: number, height: number, pixels: Buffer[], ...more: Buffer[]): Buffer {
  const head = Buffer.from('000000000000000008000000 00'.replace(' ', ''), 'hex')
  head.writeUInt32BE(width, 0)
  head.writeUInt32BE(height, 4)
  return Buffer.concat([
    text('\x89PNG\r\n\x1a\n'),
    chunk('IHDR', head),
    ...more,
    ...pixels.map(each => chunk('IDAT', deflateSync(each))),
    chunk('IEND', Buffer.alloc(0)),
  ])
}
