public import BorgFormat
public import Disk

/// An object's name in a listing, without its directories and without a soft-deleted object's suffix.
public struct ListedObject: Equatable, Sendable {
  public let name: String
  /// Bytes.
  public let size: Int

  public init(name: String, size: Int) {
    self.name = name
    self.size = size
  }
}

/// A repository object of `data/` in a listing.
public struct ListedID: Equatable, Sendable {
  public let id: ObjectID
  /// Bytes.
  public let size: Int

  public init(id: ObjectID, size: Int) {
    self.id = id
    self.size = size
  }
}

/// An object opened for reading: it stays whole and the same, whatever happens to its name.
public protocol StoredObject: Sendable {
  /// Bytes.
  var size: Int { get }

  /// Fills `buffer` from `offset` on; fewer bytes than asked for only at the end. Blocking.
  func read(at offset: Int, into buffer: inout [UInt8]) throws(ServeError) -> Int

  /// Sends some bytes, from `offset` on and at most `count`, straight to an output; returns how many, 0 at the end, nil if
  /// they have to be read and written instead. Throws a `ServeError` for what cannot be read, and anything else for a peer
  /// that is gone. Blocking.
  func send(at offset: Int, count: Int, to output: ByteOutput) throws -> Int?
}

extension StoredObject {
  public func send(at offset: Int, count: Int, to output: ByteOutput) throws -> Int? { nil }
}

extension StoredObject {
  /// The first `count` bytes, or all there are.
  public func prefix(_ count: Int) throws(ServeError) -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: min(count, size))
    let length = try read(at: 0, into: &buffer)
    if length < buffer.count { buffer.removeLast(buffer.count - length) }
    return buffer
  }
}

/// An object that arrives piece by piece, not yet under any name.
public protocol Upload: Sendable {
  /// Appends a range of `bytes`. A failure is remembered and thrown when the upload is stored.
  func append(_ bytes: [UInt8], _ range: Range<Int>)

  /// Gives the bytes up. An upload that is stored must not be abandoned.
  func abandon()

  /// What has arrived, for a look at it before it is stored. Throws what failed on the way.
  func content() throws(ServeError) -> any StoredObject
}

/// What is to be stored.
public enum ObjectContent: Sendable {
  /// These bytes of an array.
  case bytes([UInt8], Range<Int>)
  /// What arrived through this store's `upload`.
  case upload(any Upload)

  public init(_ bytes: [UInt8]) { self = .bytes(bytes, bytes.indices) }

  /// Gives out all bytes, in pieces of at most `Limits.readBlock` unless they are in memory anyway.
  public func read(_ body: (Span<UInt8>) throws(ServeError) -> Void) throws(ServeError) {
    switch self {
    case .bytes(let bytes, let range): try body(bytes.span.extracting(range))
    case .upload(let upload):
      let object = try upload.content()
      var buffer = [UInt8](repeating: 0, count: min(max(object.size, 1), Limits.readBlock))
      var offset = 0
      while offset < object.size {
        let count = try object.read(at: offset, into: &buffer)
        guard count > 0 else { throw .integrity("a value of \(object.size) bytes ends after \(offset)") }
        try body(buffer.span.extracting(0..<count))
        offset += count
      }
    }
  }

  /// Gives up what is not to be stored.
  public func abandon() {
    if case .upload(let upload) = self { upload.abandon() }
  }
}

/// A key–value store that a repository lives in: the point at which other kinds of storage join.
///
/// Blocking and thread-safe. Calls that concern one name are the caller's to order. Reads see every write
/// that returned before. When a call returns, what it did is durable, with three exceptions: objects of `data/`
/// become durable, and visible to other processes, at the next `barrier` at the latest; `locks/` are visible at
/// once, and may be gone after a power cut; and an object that was deleted from `data/` may be back after
/// one, where nothing names it any more.
///
/// Nothing ever stands under an object's name that is not whole, not even after a power cut.
public protocol ObjectStore: Sendable {
  /// Where the store is, as its client spelled it, for messages.
  var label: String { get }

  /// Directory levels between `data/` and its objects.
  var dataLevels: Int { get }

  /// Size in bytes, or nil if there is no such object.
  func info(_ name: StoreName) throws(ServeError) -> Int?

  /// Opens an object for reading, or nil if there is none.
  func open(_ name: StoreName) throws(ServeError) -> (any StoredObject)?

  /// Begins an object that is stored later by `.upload`, or abandoned.
  func upload() throws(ServeError) -> any Upload

  /// Stores an object over what has its name.
  ///
  /// With `keepsOther` an object of `data/` gives way to one that is published under its name before it gets there
  /// itself, by whomever; then that one counts as stored.
  func store(_ name: StoreName, _ content: ObjectContent, keepsOther: Bool) throws(ServeError)

  /// Makes an object of `data/` that is there, by whomever, as durable as one that was stored now: at the next
  /// barrier. False if there is none.
  func adopt(_ name: StoreName) throws(ServeError) -> Bool

  /// Removes an object; false if there was none.
  func delete(_ name: StoreName) throws(ServeError) -> Bool

  /// Renames an object over whatever has the new name; false if there was nothing to rename.
  func move(_ name: StoreName, to newName: StoreName) throws(ServeError) -> Bool

  /// The objects below a directory of the store, each directory in order of its entries' names and
  /// descended into in its place: either the living or the soft-deleted ones. A directory that does not
  /// exist is nil, `""` is the whole store. Throws `argumentValue` for more than `Limits.listPage`.
  func list(_ directory: String, deleted: Bool) throws(ServeError) -> [ListedObject]?

  /// At most `limit` living objects of `data/` with ids above `marker`, in ascending order, found in time
  /// proportional to their number.
  ///
  /// Nil if there is no `data/`. Entries that are no objects are reported to `foreign` by their names.
  func objects(after marker: ObjectID?, limit: Int, foreign: (String) -> Void)
    throws(ServeError) -> [ListedID]?

  /// Publishes all that was stored before, and makes it durable if asked to.
  ///
  /// Once publishing has failed, this and every later write throw that failure: what was answered with
  /// success can no longer be promised, so nothing that refers to it may be acknowledged.
  func barrier(durable: Bool) throws(ServeError)

  /// Publishes what has waited for too long; called every second or so.
  func tick()

  /// Bytes that may still be written, if the store knows.
  func availableSpace() -> UInt64?

  /// Makes everything durable and gives up the store's own resources. The store must not be used after.
  func close() throws(ServeError)

  /// Removes the repository: its namespaces and what is in them. Returns the top-level names of foreign
  /// entries, which stay. The store must not be used after.
  func destroy() throws(ServeError) -> [String]
}

extension ObjectStore {
  /// Stores an object over what has its name.
  public func store(_ name: StoreName, _ content: ObjectContent) throws(ServeError) {
    try store(name, content, keepsOther: false)
  }

  /// Loads a whole object, or nil if there is none. Throws `integrity` if it is larger than `limit`.
  public func load(_ name: StoreName, limit: Int) throws(ServeError) -> [UInt8]? {
    guard let object = try open(name) else { return nil }
    guard object.size <= limit else {
      throw .integrity("object \(name.text) has \(object.size) bytes, more than the \(limit) expected")
    }
    return try object.prefix(object.size)
  }
}
