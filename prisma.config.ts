import { defineConfig } from 'prisma/config'

// Only `prisma migrate` reads the URL; the server takes its own from src/config.ts.
export default defineConfig({
  schema: 'prisma/schema.prisma',
  migrations: { path: 'prisma/migrations' },
  datasource: { url: process.env.DATABASE_URL ?? 'postgresql://localhost:5432/genmux' },
})
