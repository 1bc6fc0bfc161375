import BorgFormat
import Disk
import Storage
import Synchronization

/// An object of which one part is to be sent, opened when that is read first and given up with its last byte: an answer
/// of thousands of parts has one file open at a time.
///
/// A class because it holds what is open. Read in order, by one thread at a time.
final class LateObject: StoredObject {
  private let store: any PathStore
  private let path: StorePath
  let size: Int
  /// Behind the last byte that is wanted.
  private let end: Int
  private let opened = Mutex<(any StoredObject)?>(nil)

  /// `size` is that of the whole object, as it was when it was looked at.
  init(_ path: StorePath, in store: any PathStore, size: Int, end: Int) {
    (self.path, self.store, self.size, self.end) = (path, store, size, end)
  }

  func read(at offset: Int, into buffer: inout [UInt8]) throws(ServeError) -> Int {
    let count = try object().read(at: offset, into: &buffer)
    finish(offset + count)
    return count
  }

  func send(at offset: Int, count: Int, to output: ByteOutput) throws -> Int? {
    let sent = try object().send(at: offset, count: count, to: output)
    if let sent { finish(offset + sent) }
    return sent
  }

  private func object() throws(ServeError) -> any StoredObject {
    if let object = opened.withLock({ $0 }) { return object }
    guard let object = try store.open(path) else { throw .storeObjectMissing(path.text) }
    opened.withLock { $0 = object }
    return object
  }

  private func finish(_ position: Int) {
    if position >= end { opened.withLock { $0 = nil } }
  }
}
