public import BorgFormat

/// What a directory of a store holds, or what a path leads to.
public struct StoreEntry: Equatable, Sendable {
  /// The last component of its path.
  public let name: String
  /// Bytes; of a directory what the file system says.
  public let size: Int
  public let isDirectory: Bool
  /// Last modification and last access, in nanoseconds since 1970 UTC; 0 if unknown.
  public let modified: Int64
  public let accessed: Int64

  public init(name: String, size: Int, isDirectory: Bool, modified: Int64 = 0, accessed: Int64 = 0) {
    (self.name, self.size, self.isDirectory) = (name, size, isDirectory)
    (self.modified, self.accessed) = (modified, accessed)
  }
}

/// A store as borgstore's HTTP dialect addresses it: by paths, with directories that are there in their own right.
///
/// Blocking and thread-safe. Reads see every write that returned before; when a call returns, what it did is durable and
/// visible to other processes, but for locks, which are only visible, and for directories that were made or removed, which
/// are durable at the next barrier; nothing ever stands under a name that is not whole.
///
/// Besides what is named below, every call may throw `system`: `ENOTDIR` where a component of a path is an object,
/// `EISDIR` where a directory is taken for an object.
public protocol PathStore: Sendable {
  /// What the path leads to, or nil.
  func entry(_ path: StorePath) throws(ServeError) -> StoreEntry?

  /// What is directly in a directory, in order of the names' bytes, without what is hidden; nil if there is no such
  /// directory. Soft-deleted objects are there under their own names. Throws `system` with `E2BIG` for more than
  /// `Limits.listPage`.
  func entries(in directory: StorePath) throws(ServeError) -> [StoreEntry]?

  /// Opens an object for reading, or nil if there is none.
  func open(_ path: StorePath) throws(ServeError) -> (any StoredObject)?

  /// Begins the object that is to get this path by `.upload`, or to be abandoned.
  func upload(for path: StorePath) throws(ServeError) -> any Upload

  /// Stores an object over what has its path, making missing directories.
  ///
  /// With `keepsOther` a staged object gives way to one that is published under its path before it gets there itself.
  func store(_ path: StorePath, _ content: ObjectContent, keepsOther: Bool) throws(ServeError)

  /// Makes an object that is there, by whomever, as durable as one that was stored now. False if there is none.
  func adopt(_ path: StorePath) throws(ServeError) -> Bool

  /// Removes an object, after everything that was stored before is durable, unless it is fleeting; false if there was none.
  func remove(_ path: StorePath) throws(ServeError) -> Bool

  /// Renames an object over whatever object has the new path, making missing directories; false if there was nothing.
  func move(_ path: StorePath, to newPath: StorePath) throws(ServeError) -> Bool

  /// Makes a directory and its missing parents; no error if it is there.
  func makeDirectory(_ path: StorePath) throws(ServeError)

  /// Removes an empty directory; false if there was none. Throws `system` with `ENOTEMPTY` or `ENOTDIR`.
  func removeDirectory(_ path: StorePath) throws(ServeError) -> Bool

  /// See `ObjectStore.barrier`.
  func barrier(durable: Bool) throws(ServeError)

  /// See `ObjectStore.tick`.
  func tick()

  /// See `ObjectStore.availableSpace`.
  func availableSpace() -> UInt64?

  /// See `ObjectStore.close`.
  func close() throws(ServeError)
}
