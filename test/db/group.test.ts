import { expect, test } from 'vitest'
import { groupCommit } from '../../src/db/group.ts'
import { isLost } from '../../src/db/outage.ts'
import { freshDatabase } from '../database.ts'

const db = await freshDatabase()
await db.pool.query('CREATE TABLE kites (id int PRIMARY KEY, flown int NOT NULL DEFAULT 0)')
await db.pool.query('INSERT INTO kites SELECT generate_series(1, 9)')

/** Flies kites, several in one statement. */
function fly(batches: number[][]) {
  return groupCommit<number, number>(
    async ids => {
      batches.push([...ids])
      const client = await db.pool.connect()
      try {
        await client.query(`SET lock_timeout = '200ms'`)
        await client.query('UPDATE kites SET flown = flown + 1 WHERE id = any($1)', [ids])
        return ids
      } finally {
        await client.query('RESET lock_timeout')
        client.release()
      }
    },
    { max: 8, lanes: 1, isOutage: isLost },
  )
}

test('what comes together is written together, and each gets its own answer', async () => {
  const batches: number[][] = []
  const kite = fly(batches)
  expect(await Promise.all([1, 2, 3].map(kite))).toEqual([1, 2, 3])
  expect(batches).toEqual([[1, 2, 3]])
})

test('one that waits for a lock too long takes no other with it', async () => {
  const client = await db.pool.connect()
  await client.query('BEGIN')
  await client.query('SELECT FROM kites WHERE id = 5 FOR UPDATE')
  const kite = fly([])
  const ends = await Promise.allSettled([4, 5, 6].map(kite))
  await client.query('ROLLBACK')
  client.release()
  expect(ends).toMatchObject([
    { status: 'fulfilled', value: 4 },
    { status: 'rejected', reason: { code: '55P03' } },
    { status: 'fulfilled', value: 6 },
  ])
  const { rows } = await db.pool.query('SELECT id FROM kites WHERE flown > 0 AND id IN (4, 5, 6) ORDER BY id')
  expect(rows).toEqual([{ id: 4 }, { id: 6 }])
})

test('after a batch of several the next one gathers for a moment', async () => {
  const batches: number[][] = []
  const commit = groupCommit<number, number>(
    async ids => {
      batches.push([...ids])
      return ids
    },
    { max: 8, lanes: 1, restMs: 1_000, isOutage: isLost },
  )
  await Promise.all([1, 2].map(commit))
  const late = [commit(3)]
  await new Promise(done => setTimeout(done, 50))
  late.push(commit(4))
  await Promise.all(late)
  await commit(5)
  expect(batches).toEqual([[1, 2], [3, 4], [5]])
})
