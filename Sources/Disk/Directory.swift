public import BorgFormat
public import SystemPackage

/// An open directory, and by it every name below.
///
/// A class because its descriptor is shared by all that work below the directory and closed when the last
/// of them is gone. The descriptor never leaves it: whoever holds only the number could outlive the object,
/// and use what has since become another file.
public final class Directory: Sendable {
  private let calls: any DiskCalls
  private let descriptor: RawDescriptor

  /// Takes over an open descriptor.
  public init(_ descriptor: RawDescriptor, calls: any DiskCalls) {
    self.descriptor = descriptor
    self.calls = calls
  }

  deinit { calls.close(descriptor) }

  /// Opens the directory `name` below this one.
  public func directory(_ name: String) throws(Errno) -> Directory {
    Directory(try calls.open(name, in: descriptor, .directory), calls: calls)
  }

  /// Opens the file `name` below this one, for reading.
  public func file(_ name: String) throws(Errno) -> OpenFile {
    OpenFile(try calls.open(name, in: descriptor, .read), calls: calls)
  }

  /// Creates the file `name`, which must not exist, for writing.
  public func create(_ name: String) throws(Errno) -> OpenFile {
    OpenFile(try calls.open(name, in: descriptor, .create), calls: calls)
  }

  /// Creates a directory and its missing parents; returns all those that it created, outermost first.
  @discardableResult
  public func makeDirectories(_ name: String) throws(Errno) -> [String] {
    do {
      try calls.makeDirectory(name, in: descriptor)
      return [name]
    } catch .fileExists {
      return []
    } catch .noSuchFileOrDirectory {
      guard let parent = name.parentName else { throw .noSuchFileOrDirectory }
      var created = try makeDirectories(parent)
      do {
        try calls.makeDirectory(name, in: descriptor)
        created.append(name)
      } catch .fileExists {
        // Another process was faster.
      }
      return created
    }
  }

  /// Opens the file `name` below this one in another way than for reading; see `OpenMode`.
  public func file(_ name: String, _ mode: OpenMode) throws(Errno) -> OpenFile {
    OpenFile(try calls.open(name, in: descriptor, mode), calls: calls)
  }

  /// Gives the file `name` the second name `newName`, which must not exist, below this directory.
  public func link(_ name: String, to newName: String) throws(Errno) {
    try calls.link(name, in: descriptor, to: newName, in: descriptor)
  }

  /// Makes one directory, whose parent exists.
  public func makeDirectory(_ name: String) throws(Errno) { try calls.makeDirectory(name, in: descriptor) }

  /// Removes an empty directory.
  public func removeDirectory(_ name: String) throws(Errno) {
    try calls.removeDirectory(name, in: descriptor)
  }

  /// Renames a file below this directory to a name below `target`, over what is there; unless `replacing` is false,
  /// then it throws `EEXIST`.
  public func rename(_ name: String, to newName: String, in target: Directory, replacing: Bool = true)
    throws(Errno)
  {
    try calls.rename(name, in: descriptor, to: newName, in: target.descriptor, replacing: replacing)
  }

  /// The entries' names, without `.` and `..`, in no order; see `DiskCalls.entries`.
  public func entries() throws(Errno) -> [String] { try calls.entries(of: descriptor) }

  /// Makes this directory's entries durable.
  ///
  /// Some network file systems know no such thing and answer `EINVAL`: they keep their own promises.
  public func sync() throws(Errno) {
    do {
      try calls.sync(descriptor)
    } catch .invalidArgument {
      // Nothing more can be done there.
    }
  }

  /// Makes the entries of the directory `name` below this one durable.
  public func sync(_ name: String) throws(Errno) {
    if name.isEmpty { return try sync() }
    try directory(name).sync()
  }

  /// Makes all that was written to the directory's file system durable.
  public func syncFileSystem() throws(Errno) { try calls.syncFileSystem(descriptor) }

  /// Takes the advisory lock that lasts as long as the directory is open; false if somebody else has it.
  public func lock() throws(Errno) -> Bool { try calls.lock(descriptor) }

  /// What is known of the file system.
  public func facts() throws(Errno) -> FileSystemFacts { try calls.facts(descriptor) }

  /// The status of the directory itself.
  public func status() throws(Errno) -> FileStatus { try calls.status("", in: descriptor) }

  /// Removes a file; false if there was none.
  @discardableResult
  public func remove(_ name: String) throws(Errno) -> Bool {
    do {
      try calls.unlink(name, in: descriptor)
      return true
    } catch .noSuchFileOrDirectory {
      return false
    }
  }

  /// The status of what `name` leads to, or nil if there is nothing.
  public func status(_ name: String) throws(Errno) -> FileStatus? {
    do {
      return try calls.status(name, in: descriptor)
    } catch .noSuchFileOrDirectory {
      return nil
    }
  }

  /// Removes everything below the directory `name`, then itself; links are removed, not followed.
  ///
  /// Goes on past what cannot be removed, then throws the first failure.
  public func removeTree(_ name: String) throws(Errno) {
    let inner: Directory
    do {
      inner = try directory(name)
    } catch .noSuchFileOrDirectory {
      return
    }
    let failure = try inner.removeContents()
    do {
      try removeDirectory(name)
    } catch .noSuchFileOrDirectory {
      // Somebody else was faster.
    } catch {
      throw failure ?? error
    }
  }

  /// Removes all entries that can be removed; returns the first failure.
  private func removeContents() throws(Errno) -> Errno? {
    var failure: Errno?
    for entry in try entries() {
      do {
        try calls.unlink(entry, in: descriptor)
      } catch .isDirectory {
        do { try removeTree(entry) } catch { failure = failure ?? error }
      } catch .noSuchFileOrDirectory {
        // Somebody else was faster.
      } catch {
        failure = failure ?? error
      }
    }
    return failure
  }
}

/// An open file.
///
/// A class because an answer that streams from a file is passed from a worker to the writer.
public final class OpenFile: Sendable {
  private let calls: any DiskCalls
  private let descriptor: RawDescriptor

  public init(_ descriptor: RawDescriptor, calls: any DiskCalls) {
    self.descriptor = descriptor
    self.calls = calls
  }

  deinit { calls.close(descriptor) }

  /// Bytes in the file. Throws `EISDIR` for a directory and `EINVAL` for any other thing that is no file.
  public func size() throws(Errno) -> Int {
    let status = try calls.status("", in: descriptor)
    switch status.kind {
    case .file: return status.size
    case .directory: throw .isDirectory
    case .other: throw .invalidArgument
    }
  }

  /// Reads up to `count` bytes at `offset`; fewer only at the end of the file.
  public func read(at offset: Int, count: Int) throws(Errno) -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: count)
    let length = try read(at: offset, into: &buffer)
    if length < count { buffer.removeLast(count - length) }
    return buffer
  }

  /// Fills `buffer` from `offset` on; returns how much there was.
  public func read(at offset: Int, into buffer: inout [UInt8]) throws(Errno) -> Int {
    var length = 0
    while length < buffer.count {
      let count = try calls.read(
        descriptor, at: offset + length, into: &buffer, from: length, count: buffer.count - length)
      if count == 0 { break }
      length += count
    }
    return length
  }

  /// Fills `count` bytes of `buffer` from its index `start` with what the file holds from `offset` on; returns how many
  /// there were, fewer only at the end of the file.
  public func read(at offset: Int, into buffer: inout [UInt8], from start: Int = 0, count: Int) throws(Errno)
    -> Int
  {
    var length = 0
    while length < count {
      let more = try calls.read(
        descriptor, at: offset + length, into: &buffer, from: start + length, count: count - length)
      if more == 0 { break }
      length += more
    }
    return length
  }

  /// Appends `count` bytes from `offset` on to `buffer`; returns how many there were, fewer only at the end of the file.
  public func read(at offset: Int, count: Int, appendingTo buffer: inout [UInt8]) throws(Errno) -> Int {
    var length = 0
    while length < count {
      let more = try calls.read(
        descriptor, at: offset + length, count: count - length, appendingTo: &buffer)
      if more == 0 { break }
      length += more
    }
    return length
  }

  /// See `DiskCalls.send`.
  func send(at offset: Int, count: Int, to output: RawDescriptor) throws(Errno) -> Int? {
    try calls.send(descriptor, at: offset, count: count, to: output)
  }

  public func write(_ bytes: [UInt8], _ range: Range<Int>, at offset: Int) throws(Errno) {
    try calls.write(descriptor, at: offset, bytes, range)
  }

  public func startWriteback(at offset: Int, count: Int) {
    calls.startWriteback(descriptor, at: offset, count: count)
  }

  public func sync() throws(Errno) { try calls.sync(descriptor) }

  /// Makes the data durable, and as much of the status as reading them needs.
  public func syncData() throws(Errno) { try calls.syncData(descriptor) }

  /// The status of the file.
  public func status() throws(Errno) -> FileStatus { try calls.status("", in: descriptor) }

  /// See `DiskCalls.lock`.
  public func lock(_ kind: LockKind, waits: Bool) throws(Errno) -> Bool {
    try calls.lock(descriptor, kind, waits: waits)
  }
}

extension String {
  /// The name without its last component, or nil if it has only one.
  public var parentName: String? {
    utf8.lastIndex(of: UInt8(ascii: "/")).map { String(self[..<$0]) }
  }
}

extension SystemFailure {
  /// The failure of a system call, with the C library's text for its error number.
  public init(_ operation: String, _ name: String, _ code: Errno) {
    self.init(operation: operation, name: name, code: code.rawValue, reason: code.description)
  }
}

extension ServeError {
  /// Runs system calls and says of a failure what was being done, and to what.
  public static func doing<Result>(
    _ operation: @autoclosure () -> String, _ name: @autoclosure () -> String,
    _ body: () throws(Errno) -> Result
  ) throws(ServeError) -> Result {
    do {
      return try body()
    } catch {
      throw .system(SystemFailure(operation(), name(), error))
    }
  }
}
