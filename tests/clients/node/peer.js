// Mutual TLS in both roles at once, each handshake with the newest SVID.
'use strict'

const crypto = require('node:crypto')
const tls = require('node:tls')
const { say } = require('./lines')
const { X509Source } = require('./source')
const { trustDomain } = require('./workload_api')

const HANDSHAKE_DEADLINE_MS = 20_000
const SOURCE_DEADLINE_MS = 30_000
const PAUSE_MS = 20

const counts = { dialed: 0, dial_failed: 0, served: 0, serve_failed: 0 }
const ports = {}
let paused = false

// Gives what obeys the commands.
function start(api, peerIds) {
  const source = new X509Source(api)
  const giveUp = (error) => {
    say({ event: 'no_source', error: `${error}` })
    process.exit(1)
  }
  const patience = setTimeout(() => giveUp(source.lastError ?? new Error('no answer')), SOURCE_DEADLINE_MS)
  // Later the program lives on with what it has.
  source.on('gave_up', (error) => source.revision || giveUp(error))
  source.once('revision', (first) => {
    clearTimeout(patience)
    serve(source, first, peerIds)
  })
  let lastSerial
  source.on('revision', ({ spiffeId, serial }) => {
    if (serial !== lastSerial) say({ event: 'svid', spiffe_id: spiffeId, serial })
    lastSerial = serial
  })
  source.watch()
  return (command) => {
    if (command.dial) dial(source, command.dial, peerIds)
    if (command.pause !== undefined) paused = command.pause
    if (command.report) say({ event: 'report', ...counts, ports })
  }
}

// The options of TLS for one revision: trust in the domains of the expected peers and in no other.
function context(revision, peerIds) {
  const domains = new Set(peerIds.map(trustDomain))
  const roots = [...domains].flatMap((domain) => revision.bundles.get(domain) ?? [])
  return { cert: revision.certificates, key: revision.key, ca: roots.map(String), minVersion: 'TLSv1.2' }
}

// Why the certificate may not be the peer's; undefined if it may. OpenSSL has verified the chain, though perhaps to a
// root of another trust domain than the one that the certificate names.
function objection(peerCertificate, revision, peerIds) {
  const names = new crypto.X509Certificate(peerCertificate.raw).subjectAltName ?? ''
  const ids = names.split(', ').filter((name) => name.startsWith('URI:'))
  // Quotes are where Node escapes values that look like several.
  if (ids.length !== 1 || names.includes('"')) return new Error(`not an SVID: ${names}`)
  const id = ids[0].slice('URI:'.length)
  if (!peerIds.includes(id)) return new Error(`unexpected peer ${id}`)
  const roots = revision.bundles.get(trustDomain(id)) ?? []
  const seen = new Set()
  for (let at = peerCertificate; at?.raw && !seen.has(at); at = at.issuerCertificate) {
    seen.add(at)
    const certificate = new crypto.X509Certificate(at.raw)
    if (roots.some((root) => certificate.checkIssued(root) && certificate.verify(root.publicKey))) return undefined
  }
  return new Error(`no root of the trust domain of ${id} has issued its certificate`)
}

// Counts the outcome of one conversation, once.
function account(role, good, bad) {
  let open = true
  return (error) => {
    if (!open) return false
    open = false
    counts[error ? bad : good] += 1
    if (error) say({ event: 'failed', role, error: `${error.code ? error.code + ' ' : ''}${error.message}` })
    return true
  }
}

// Calls back with the first four bytes as text, or with why there are none.
function readFour(socket, done) {
  let text = ''
  socket.setTimeout(HANDSHAKE_DEADLINE_MS, () => done(new Error('took too long')))
  socket.on('error', done)
  socket.on('end', () => done(new Error('closed early')))
  socket.on('close', () => done(new Error('closed early')))
  socket.on('data', (data) => {
    text += data.toString('latin1')
    if (text.length >= 4) done(null, text)
  })
}

function serve(source, first, peerIds) {
  const server = tls.createServer({
    ...context(first, peerIds),
    requestCert: true,
    rejectUnauthorized: true,
    handshakeTimeout: HANDSHAKE_DEADLINE_MS,
    // Tickets would let a peer come again without showing its certificate.
    secureOptions: crypto.constants.SSL_OP_NO_TICKET,
  })
  source.on('revision', (revision) => {
    server.setSecureContext({ ...context(revision, peerIds), secureOptions: crypto.constants.SSL_OP_NO_TICKET })
  })
  server.on('tlsClientError', (error, socket) => {
    account('serve', 'served', 'serve_failed')(error)
    socket.destroy()
  })
  server.on('secureConnection', (socket) => {
    const settle = account('serve', 'served', 'serve_failed')
    const fail = (error) => {
      if (settle(error)) socket.destroy()
    }
    const refused = objection(socket.getPeerCertificate(true), source.revision, peerIds)
    if (refused) return fail(refused)
    readFour(socket, (error, question) => {
      if (error) return fail(error)
      if (question !== 'ping') return fail(new Error('a strange question'))
      socket.end('pong', () => settle(null))
    })
  })
  server.listen(0, '127.0.0.1', () => say({ event: 'listening', port: server.address().port }))
}

function dial(source, port, peerIds) {
  const again = () => setTimeout(() => dial(source, port, peerIds), PAUSE_MS)
  // A command may come before the first revision does.
  if (paused || !source.revision) return again()
  const revision = source.revision
  const settle = account('dial', 'dialed', 'dial_failed')
  const done = (error, answer) => {
    const wrong = error ?? (answer === 'pong' ? null : new Error('a strange answer'))
    if (!settle(wrong)) return
    if (!wrong) ports[port] = (ports[port] ?? 0) + 1
    socket.destroy()
    again()
  }
  // Without `session` nothing is resumed.
  const socket = tls.connect({
    host: '127.0.0.1',
    port,
    ...context(revision, peerIds),
    checkServerIdentity: (_host, certificate) => objection(certificate, revision, peerIds),
  })
  // In TLS 1.3 the client hears only with the answer whether the server has accepted it.
  socket.on('secureConnect', () => socket.write('ping'))
  readFour(socket, done)
}

module.exports = { context, objection, start }
