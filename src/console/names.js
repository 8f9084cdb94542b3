import { call } from './api.js'
import { link } from './dom.js'

/** Names of customers, by id. Orders and reports carry only the id. */
const names = new Map()

/** Learns the names of customers that were read anyway. */
export function remember(customers) {
  for (const { id, name } of customers) names.set(id, Promise.resolve(name))
}

/** A link to a customer: the id at first, the name as soon as it is known. */
export function customerLink(id) {
  const anchor = link(`/customers/${encodeURIComponent(id)}`, id)
  anchor.title = id
  if (!names.has(id))
    names.set(
      id,
      call('GET /customers/{id}', { id }).then(answer => answer.customer.name),
    )
  void names.get(id).then(
    name => {
      anchor.textContent = name
    },
    () => names.delete(id),
  )
  return anchor
}
