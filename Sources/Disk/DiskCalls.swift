public import SystemPackage

/// A kind of directory entry, as far as a repository cares.
public enum EntryKind: Sendable, Equatable {
  case file, directory, other
}

/// What `stat` tells of a file.
public struct FileStatus: Sendable, Equatable {
  public let kind: EntryKind
  /// Bytes.
  public let size: Int
  /// Last modification, in seconds since 1970 UTC.
  public let modified: Int64
  /// Last modification and last access, in nanoseconds since 1970 UTC; 0 if unknown.
  public let modifiedNanoseconds: Int64
  public let accessedNanoseconds: Int64
  /// Tells files of one file system apart.
  public let inode: UInt64
  /// Tells file systems apart.
  public let device: UInt64
  /// Names that the file has.
  public let links: Int

  public init(
    kind: EntryKind, size: Int, modified: Int64, inode: UInt64, device: UInt64 = 0, links: Int = 1,
    modifiedNanoseconds: Int64 = 0, accessedNanoseconds: Int64 = 0
  ) {
    self.modifiedNanoseconds = modifiedNanoseconds
    self.accessedNanoseconds = accessedNanoseconds
    self.device = device
    self.links = links
    self.kind = kind
    self.size = size
    self.modified = modified
    self.inode = inode
  }
}

/// What is to happen at the name that `open` is given.
public enum OpenMode: Sendable, Equatable {
  /// An existing file, for reading.
  case read
  /// An existing directory.
  case directory
  /// A new file, mode 0600 whatever the umask (as Borg 2's), for writing.
  case create
  /// A new file, mode 0666 less the umask (as Borg 1's), for writing.
  case createByMask
  /// An existing file, for reading and writing.
  case update
}

/// What the server knows of the file system below a directory.
public struct FileSystemFacts: Sendable, Equatable {
  /// Whether one `syncfs` makes all earlier writes durable and reports their errors.
  public let syncsWhole: Bool
  /// Bytes that this user may still write.
  public let available: UInt64

  public init(syncsWhole: Bool, available: UInt64) {
    self.syncsWhole = syncsWhole
    self.available = available
  }
}

/// What an advisory lock on an open file excludes. It lasts as long as the file is open.
public enum LockKind: Sendable, Equatable {
  /// All other locks.
  case exclusive
  /// Exclusive ones.
  case shared
  /// Nothing: the lock is given back.
  case none
}

/// A descriptor of an open file or directory, as `DiskCalls` deals in them.
public typealias RawDescriptor = Int32

/// The system calls by which a repository touches a disk: the seam at which tests put a failing, lossy and
/// reordering disk in the kernel's place.
///
/// Every call blocks, is thread-safe, retries `EINTR` by itself, and throws the error number of the call.
/// Names are relative to a directory's descriptor and may have several components.
public protocol DiskCalls: Sendable {
  func open(_ name: String, in directory: RawDescriptor, _ mode: OpenMode) throws(Errno) -> RawDescriptor
  func close(_ descriptor: RawDescriptor)

  /// Reads at most `count` bytes at `offset` into `buffer`, from its index `start`; 0 at the end of the file.
  func read(
    _ descriptor: RawDescriptor, at offset: Int, into buffer: inout [UInt8], from start: Int, count: Int
  ) throws(Errno) -> Int

  /// Appends at most `count` bytes from `offset` on to `buffer`, without touching them in between; returns how many, 0 at
  /// the end of the file.
  func read(_ descriptor: RawDescriptor, at offset: Int, count: Int, appendingTo buffer: inout [UInt8])
    throws(Errno) -> Int

  /// Hands at most `count` bytes at `offset` to a pipe, socket or file without a copy in this process; returns how many,
  /// 0 at the end of the file, nil where that cannot be done.
  func send(_ descriptor: RawDescriptor, at offset: Int, count: Int, to output: RawDescriptor) throws(Errno)
    -> Int?

  /// Writes a range of `bytes` at `offset`, all of it unless it throws.
  func write(_ descriptor: RawDescriptor, at offset: Int, _ bytes: [UInt8], _ range: Range<Int>) throws(Errno)

  /// Starts writing a file's dirty pages back, without waiting. Advice: errors show at the next sync.
  func startWriteback(_ descriptor: RawDescriptor, at offset: Int, count: Int)

  /// Returns when a file's data and size, or a directory's entries, are on stable storage.
  func sync(_ descriptor: RawDescriptor) throws(Errno)

  /// Returns when a file's data, and as much of its status as reading them needs, is on stable storage.
  func syncData(_ descriptor: RawDescriptor) throws(Errno)

  /// Returns when all that was written to the descriptor's file system is on stable storage.
  ///
  /// An earlier write-back error is reported once per descriptor, so it has to be opened before the writes.
  func syncFileSystem(_ descriptor: RawDescriptor) throws(Errno)

  /// Renames over what has the new name, or throws `EEXIST` for it if `replacing` is false.
  func rename(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor,
    replacing: Bool
  ) throws(Errno)
  /// Gives a file a second name, which must not exist.
  func link(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor
  ) throws(Errno)
  func unlink(_ name: String, in directory: RawDescriptor) throws(Errno)
  func makeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno)
  func removeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno)

  /// The entries' names, without `.` and `..`, in no order. Bytes that are not UTF-8, as no name of Borg's
  /// has, are replaced: such an entry is counted, and then not found by its name.
  func entries(of directory: RawDescriptor) throws(Errno) -> [String]

  /// The status of what the name leads to, links followed; an empty name is the directory itself.
  func status(_ name: String, in directory: RawDescriptor) throws(Errno) -> FileStatus

  /// Takes an advisory lock on the open file in the place of one that it has, or gives it back. False if another open file
  /// holds one that excludes it, unless `waits`, which blocks until none does.
  func lock(_ descriptor: RawDescriptor, _ kind: LockKind, waits: Bool) throws(Errno) -> Bool

  func facts(_ descriptor: RawDescriptor) throws(Errno) -> FileSystemFacts
}

extension DiskCalls {
  /// Takes an exclusive advisory lock on the open file; false if another open file holds one.
  public func lock(_ descriptor: RawDescriptor) throws(Errno) -> Bool {
    try lock(descriptor, .exclusive, waits: false)
  }

  /// For disks that are none: through bytes that are zero first.
  public func read(
    _ descriptor: RawDescriptor, at offset: Int, count: Int, appendingTo buffer: inout [UInt8]
  ) throws(Errno) -> Int {
    let start = buffer.count
    buffer += repeatElement(0, count: count)
    do {
      let length = try read(descriptor, at: offset, into: &buffer, from: start, count: count)
      buffer.removeLast(count - length)
      return length
    } catch {
      buffer.removeLast(count)
      throw error
    }
  }
}
