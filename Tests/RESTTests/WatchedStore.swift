import BorgFormat
import Disk
import Glibc
import REST
import Storage
import Synchronization

/// A store that counts the objects that are open.
final class WatchedStore: PathStore {
  private let store: any PathStore
  private let losesAll: Bool
  private let counts = Mutex((open: 0, most: 0, opened: 0))

  /// With `losesAll` no object is there any more when it is to be opened.
  init(_ store: any PathStore, losesAll: Bool = false) { (self.store, self.losesAll) = (store, losesAll) }

  var mostOpen: Int { counts.withLock { $0.most } }
  var opened: Int { counts.withLock { $0.opened } }

  private final class Watched: StoredObject {
    let object: any StoredObject
    let store: WatchedStore

    init(_ object: any StoredObject, _ store: WatchedStore) {
      (self.object, self.store) = (object, store)
      store.counts.withLock { $0 = ($0.open + 1, max($0.most, $0.open + 1), $0.opened + 1) }
    }

    deinit { store.counts.withLock { $0.open -= 1 } }

    var size: Int { object.size }
    func read(at offset: Int, into buffer: inout [UInt8]) throws(ServeError) -> Int {
      try object.read(at: offset, into: &buffer)
    }
    func send(at offset: Int, count: Int, to output: ByteOutput) throws -> Int? {
      try object.send(at: offset, count: count, to: output)
    }
  }

  func open(_ path: StorePath) throws(ServeError) -> (any StoredObject)? {
    guard !losesAll, let object = try store.open(path) else { return nil }
    return Watched(object, self)
  }

  func entry(_ path: StorePath) throws(ServeError) -> StoreEntry? { try store.entry(path) }
  func entries(in directory: StorePath) throws(ServeError) -> [StoreEntry]? {
    try store.entries(in: directory)
  }
  func upload(for path: StorePath) throws(ServeError) -> any Upload { try store.upload(for: path) }
  func store(_ path: StorePath, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    try store.store(path, content, keepsOther: keepsOther)
  }
  func adopt(_ path: StorePath) throws(ServeError) -> Bool { try store.adopt(path) }
  func remove(_ path: StorePath) throws(ServeError) -> Bool { try store.remove(path) }
  func move(_ path: StorePath, to newPath: StorePath) throws(ServeError) -> Bool {
    try store.move(path, to: newPath)
  }
  func makeDirectory(_ path: StorePath) throws(ServeError) { try store.makeDirectory(path) }
  func removeDirectory(_ path: StorePath) throws(ServeError) -> Bool { try store.removeDirectory(path) }
  func barrier(durable: Bool) throws(ServeError) { try store.barrier(durable: durable) }
  func tick() {}
  func availableSpace() -> UInt64? { nil }
  func close() {}
}

struct WatchedPlace: StorePlace {
  let watched: WatchedStore

  func store() -> any PathStore { watched }
  func create() {}
  func destroy() {}
  func quota() -> (limit: UInt64, usage: UInt64)? { (limit: 10, usage: 7) }
  func tick() {}
  func close() {}
}

/// A place on a disk that is failing.
struct FailingPlace: StorePlace {
  func store() throws(ServeError) -> any PathStore {
    throw .system(
      SystemFailure(operation: "open", name: "the store", code: EIO, reason: "input/output error"))
  }
  func create() throws(ServeError) { _ = try store() }
  func destroy() throws(ServeError) { _ = try store() }
  func quota() -> (limit: UInt64, usage: UInt64)? { nil }
  func tick() {}
  func close() throws(ServeError) {
    throw .system(
      SystemFailure(operation: "make durable", name: "packs/x", code: ENOSPC, reason: "no space left"))
  }
}
