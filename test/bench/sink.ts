import { createWriteStream } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'

/* The reference for uploads: a Node server that pipes a request to a file, and no more. */
const { folder, port } = JSON.parse(process.argv[2] as string) as { folder: string; port: number }
let files = 0
createServer((request, response) => {
  files += 1
  void pipeline(request, createWriteStream(join(folder, String(files)))).then(() => response.writeHead(201).end())
}).listen(port, '127.0.0.1', () => process.send?.('ready'))
process.on('disconnect', () => process.exit(0))
