import BorgFormat
import Disk
import REST
import Storage
import Synchronization

@testable import NetServer

/// A repository in memory, as far as the transport's tests need one.
final class MemoryPlace: StorePlace {
  let name: RepositoryName
  let objects = Mutex<[String: [UInt8]]>([:])
  let isClosed = Mutex(false)

  init(_ name: RepositoryName) { self.name = name }

  func store() throws(ServeError) -> any PathStore { throw .unsupported("there is only memory") }
  func create() throws(ServeError) {}
  func destroy() throws(ServeError) {}
  func quota() throws(ServeError) -> (limit: UInt64, usage: UInt64)? { nil }
  func tick() {}
  func close() throws(ServeError) { isClosed.withLock { $0 = true } }
}

/// Stores with POST, loads with GET; `/zeros/N` is N bytes that exist nowhere, `/wait` answers when the gate opens.
final class StandInExchange: Exchange, @unchecked Sendable {
  private let head: RequestHead
  private let place: MemoryPlace
  private let permissions: Permissions
  private let bed: Bed.Events
  private var body: [UInt8] = []
  private var received = 0

  init(_ head: RequestHead, _ place: MemoryPlace, _ permissions: Permissions, _ bed: Bed.Events) {
    (self.head, self.place, self.permissions, self.bed) = (head, place, permissions, bed)
    bed.state.update { $0.begun += 1 }
  }

  func receive(_ bytes: [UInt8], _ range: Range<Int>) {
    received += range.count
    if head.path.hasPrefix("/slow") { bed.waitForGate() }
    if received <= 1 << 20 { body += bytes[range] }
  }

  func finish() -> Answer {
    if head.path == "/wait" { bed.waitForGate() }
    switch head.method {
    case .post where permissions == .readOnly:
      return Answer(status: 403, body: .bytes(Array("read-only".utf8)))
    case .post:
      place.objects.withLock { $0[head.path] = body }
      return Answer(status: 200, body: .bytes(Array("\(received)".utf8)))
    case .get, .head:
      if head.path.hasPrefix("/zeros/"), let count = Int(head.path.dropFirst(7)) {
        let piece = Answer.Piece(object: Zeros(size: count), offset: 0, count: count)
        return Answer(status: 200, body: .pieces([piece]))
      }
      guard let bytes = place.objects.withLock({ $0[head.path] }) else {
        return Answer(status: 404, body: .bytes([]))
      }
      return Answer(
        status: 200, body: head.method == .head ? .none : .bytes(bytes), contentLength: bytes.count)
    case .delete: return Answer(status: 200)
    case .other: return Answer(status: 501)
    }
  }

  func abandon() { bed.state.update { $0.abandoned += 1 } }
}

struct Zeros: StoredObject {
  let size: Int

  func read(at offset: Int, into buffer: inout [UInt8]) throws(ServeError) -> Int {
    min(buffer.count, size - offset)
  }
}
