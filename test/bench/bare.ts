import fastify from 'fastify'

/* The reference for reads: a Fastify route that does nothing but answer. */
const { body, port } = JSON.parse(process.argv[2] as string) as { body: object; port: number }
const server = fastify()
server.get('/orders/:id', async () => body)
await server.listen({ host: '127.0.0.1', port })
process.on('disconnect', () => process.exit(0))
process.send?.('ready')
