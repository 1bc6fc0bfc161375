import CSyscalls
import Glibc
public import SystemPackage

/// `DiskCalls` on the kernel.
///
/// This file is one of those made for unsafe code: each call hands the kernel a buffer that Swift owns for
/// just the time of the call, inside its bounds.
public struct SystemCalls: DiskCalls {
  public init() {}

  public func open(_ name: String, in directory: RawDescriptor, _ mode: OpenMode)
    throws(Errno) -> RawDescriptor
  {
    try untouched(Opening(mode)) { (flags) throws(Errno) in
      try retrying { unsafe openat(directory, name, flags | O_CLOEXEC, mode.fileMode) }
    }
  }

  /// Opens a file that is only read without a note of when: the first read of every object would change its inode, in
  /// the journal and on the disk. Only the file's owner may ask for that.
  private func untouched(_ opening: Opening, _ open: (Int32) throws(Errno) -> RawDescriptor) throws(Errno)
    -> RawDescriptor
  {
    guard opening.isReading else { return try open(opening.flags) }
    do {
      return try open(opening.flags | borg_no_access_time())
    } catch .notPermitted {
      return try open(opening.flags)
    }
  }

  /// How a name is opened.
  struct Opening {
    let flags: Int32
    /// Whether it is a file, for its content.
    let isReading: Bool
    /// Of a file that is created, before the umask.
    let fileMode: UInt32

    init(_ mode: OpenMode) {
      isReading = mode == .read
      fileMode = mode.fileMode
      flags =
        switch mode {
        case .read: O_RDONLY | O_NOCTTY | O_NONBLOCK
        case .directory: O_RDONLY | O_DIRECTORY
        case .create, .createByMask: O_RDWR | O_CREAT | O_EXCL
        case .update: O_RDWR | O_NOCTTY
        }
    }

    private init(flags: Int32) { (self.flags, isReading, fileMode) = (flags, false, 0) }

    static let directory = Self(.directory)
    /// A handle for nothing but names and status.
    static let handle = Self(flags: borg_o_path)
    static let directoryHandle = Self(flags: borg_o_path | O_DIRECTORY)
  }

  /// What becomes of symbolic links on the way, the last component among it.
  enum Links {
    case refused
    /// As long as they lead to what lies beneath.
    case followed
  }

  /// Opens a path of bytes, relative and without `..`, beneath a directory.
  ///
  /// Throws `EXDEV` where a link leads out of it, or stands where none is to be followed.
  func open(_ path: [UInt8], beneath directory: RawDescriptor, _ opening: Opening, links: Links)
    throws(Errno) -> RawDescriptor
  {
    guard Self.kernelResolvesBeneath else { return try walk(path, beneath: directory, opening) }
    let bytes = terminated(path)
    for _ in 0..<Self.resolvingAttempts {
      do throws(Errno) {
        return try untouched(opening) { (flags) throws(Errno) in
          try retrying {
            unsafe borg_open_beneath(
              directory, bytes, flags, Int32(opening.fileMode), links == .followed ? 1 : 0)
          }
        }
      } catch .wouldBlock {
        // Somebody renamed a directory while a link's `..` was followed: it is to be tried again.
      } catch .tooManySymbolicLinkLevels where links == .refused {
        throw .improperLink
      }
    }
    throw .wouldBlock
  }

  private static let resolvingAttempts = 100

  /// The same without `openat2`, component by component: no link is followed.
  func walk(_ path: [UInt8], beneath directory: RawDescriptor, _ opening: Opening) throws(Errno)
    -> RawDescriptor
  {
    var components = path.split(separator: UInt8(ascii: "/")).map { terminated(Array($0)) }
    guard let last = components.popLast() else { throw .noSuchFileOrDirectory }
    var parent: RawDescriptor?
    defer { if let parent { close(parent) } }
    for component in components {
      let next = try step(component, in: parent ?? directory, .directoryHandle)
      if let parent { close(parent) }
      parent = next
    }
    return try step(last, in: parent ?? directory, opening)
  }

  private func step(_ name: [CChar], in directory: RawDescriptor, _ opening: Opening) throws(Errno)
    -> RawDescriptor
  {
    let flags = opening.flags
    do {
      let descriptor = try retrying {
        unsafe openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC, opening.fileMode)
      }
      // A mere handle is a handle for the link itself.
      guard flags & borg_o_path != 0, isLink(name, in: directory) else { return descriptor }
      close(descriptor)
    } catch .fileExists {
      throw .fileExists
    } catch {
      guard isLink(name, in: directory) else { throw error }
    }
    throw .improperLink
  }

  private func isLink(_ name: [CChar], in directory: RawDescriptor) -> Bool {
    var status = stat()
    return unsafe fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0
      && status.st_mode & S_IFMT == S_IFLNK
  }

  /// Since Linux 5.6; some containers forbid the call.
  private static let kernelResolvesBeneath: Bool = {
    let descriptor = unsafe borg_open_beneath(AT_FDCWD, ".", borg_o_path, 0, 0)
    if descriptor >= 0 { _ = Glibc.close(descriptor) }
    return descriptor >= 0 || ![ENOSYS, EPERM, EINVAL].contains(errno)
  }()

  /// A handle for the directory at an absolute path in which no link stands any more; `EXDEV` if one does. The
  /// directory need not be readable.
  func openDirectory(_ path: RepositoryPath) throws(Errno) -> RawDescriptor {
    // A handle: a confined process may not read the root directory.
    let root = try openHandle(path: [UInt8(ascii: "/")])
    defer { close(root) }
    return try open(path.path(below: .root), beneath: root, .directoryHandle, links: .refused)
  }

  /// The absolute path of an open directory, as `/proc` has it; `EACCES` where there is no `/proc`.
  func path(of descriptor: RawDescriptor) throws(Errno) -> [UInt8] {
    var buffer = [CChar](repeating: 0, count: 8192)
    // Not `ENOENT`, which would say that what is looked for is not there.
    guard let count = try? retrying({ unsafe readlink("/proc/self/fd/\(descriptor)", &buffer, buffer.count) })
    else {
      throw .permissionDenied
    }
    guard count < buffer.count else { throw .fileNameTooLong }
    return buffer.prefix(count).map { UInt8(bitPattern: $0) }
  }

  /// The status of a name itself; nil if it is a link.
  func statusOfLink(_ name: String, in directory: RawDescriptor) throws(Errno) -> FileStatus? {
    var status = stat()
    _ = try retrying { unsafe fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) }
    return status.st_mode & S_IFMT == S_IFLNK ? nil : FileStatus(status)
  }

  /// Makes a directory whose name is bytes.
  func makeDirectory(_ name: [UInt8], in directory: RawDescriptor) throws(Errno) {
    let bytes = terminated(name)
    _ = try retrying { unsafe mkdirat(directory, bytes, 0o777) }
  }

  /// Removes an empty directory whose name is bytes.
  func removeDirectory(_ name: [UInt8], in directory: RawDescriptor) throws(Errno) {
    let bytes = terminated(name)
    _ = try retrying { unsafe unlinkat(directory, bytes, AT_REMOVEDIR) }
  }

  /// Opens a directory by its absolute path, which may be any bytes but NUL.
  public func openDirectory(path: [UInt8]) throws(Errno) -> RawDescriptor {
    let bytes = terminated(path)
    return try retrying { unsafe Glibc.open(bytes, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
  }

  /// A handle for what an absolute path leads to, for its status and rights only.
  func openHandle(path: [UInt8]) throws(Errno) -> RawDescriptor {
    let bytes = terminated(path)
    return try retrying { unsafe Glibc.open(bytes, borg_o_path | O_CLOEXEC) }
  }

  public func close(_ descriptor: RawDescriptor) {
    _ = Glibc.close(descriptor)
  }

  public func read(
    _ descriptor: RawDescriptor, at offset: Int, into buffer: inout [UInt8], from start: Int, count: Int
  ) throws(Errno) -> Int {
    precondition(start >= 0 && count >= 0 && start + count <= buffer.count)
    return try retrying {
      unsafe buffer.withUnsafeMutableBytes { bytes in
        unsafe pread(descriptor, bytes.baseAddress.map { unsafe $0 + start }, count, off_t(offset))
      }
    }
  }

  public func read(
    _ descriptor: RawDescriptor, at offset: Int, count: Int, appendingTo buffer: inout [UInt8]
  ) throws(Errno) -> Int {
    var result: Result<Int, Errno> = .success(0)
    buffer.append(addingCapacity: count) { output in
      unsafe output.withUnsafeMutableBufferPointer { space, initialized in
        do throws(Errno) {
          // The kernel writes at most `count` bytes into room for as many; what it wrote becomes the array's.
          initialized = try retrying {
            unsafe pread(descriptor, space.baseAddress, min(count, space.count), off_t(offset))
          }
          result = .success(initialized)
        } catch {
          result = .failure(error)
        }
      }
    }
    return try result.get()
  }

  public func send(_ descriptor: RawDescriptor, at offset: Int, count: Int, to output: RawDescriptor)
    throws(Errno) -> Int?
  {
    var position = off_t(offset)
    do {
      return try retrying { unsafe sendfile(output, descriptor, &position, count) }
    } catch .invalidArgument, .noFunction, .notSupported {
      return nil
    }
  }

  public func write(_ descriptor: RawDescriptor, at offset: Int, _ bytes: [UInt8], _ range: Range<Int>)
    throws(Errno)
  {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count)
    var done = 0
    while done < range.count {
      let written = try retrying {
        unsafe bytes.withUnsafeBytes { buffer in
          unsafe pwrite(
            descriptor, buffer.baseAddress.map { unsafe $0 + range.lowerBound + done }, range.count - done,
            off_t(offset + done))
        }
      }
      // A regular file that takes nothing and names no error is as full as it gets.
      guard written > 0 else { throw .noSpace }
      done += written
    }
  }

  public func startWriteback(_ descriptor: RawDescriptor, at offset: Int, count: Int) {
    _ = borg_start_writeback(descriptor, Int64(offset), Int64(count))
  }

  public func sync(_ descriptor: RawDescriptor) throws(Errno) {
    _ = try retrying { fsync(descriptor) }
  }

  public func syncData(_ descriptor: RawDescriptor) throws(Errno) {
    _ = try retrying { fdatasync(descriptor) }
  }

  public func syncFileSystem(_ descriptor: RawDescriptor) throws(Errno) {
    _ = try retrying { borg_sync_file_system(descriptor) }
  }

  public func rename(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor,
    replacing: Bool
  ) throws(Errno) {
    guard !replacing else {
      _ = try retrying { unsafe renameat(directory, name, newDirectory, newName) }
      return
    }
    do {
      _ = try retrying { unsafe borg_rename_new(directory, name, newDirectory, newName) }
    } catch .invalidArgument {
      // Some network file systems cannot: a look first is the best that there is.
      var status = stat()
      guard unsafe fstatat(newDirectory, newName, &status, AT_SYMLINK_NOFOLLOW) != 0 else {
        throw .fileExists
      }
      _ = try retrying { unsafe renameat(directory, name, newDirectory, newName) }
    }
  }

  public func link(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor
  ) throws(Errno) {
    _ = try retrying { unsafe linkat(directory, name, newDirectory, newName, 0) }
  }

  public func unlink(_ name: String, in directory: RawDescriptor) throws(Errno) {
    _ = try retrying { unsafe unlinkat(directory, name, 0) }
  }

  public func makeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno) {
    _ = try retrying { unsafe mkdirat(directory, name, 0o777) }
  }

  public func removeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno) {
    _ = try retrying { unsafe unlinkat(directory, name, AT_REMOVEDIR) }
  }

  public func entries(of directory: RawDescriptor) throws(Errno) -> [String] {
    // The stream closes its descriptor and shares its position with any duplicate, hence a new one.
    let descriptor = try retrying { unsafe openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    guard let stream = unsafe fdopendir(descriptor) else {
      let failure = Errno(rawValue: errno)
      close(descriptor)
      throw failure
    }
    defer { unsafe _ = closedir(stream) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = unsafe readdir(stream) else {
        guard errno == 0 else { throw Errno(rawValue: errno) }
        return names
      }
      // The name is a C string inside the record that readdir owns until its next call.
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { field in
        unsafe field.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      guard name != ".", name != ".." else { continue }
      names.append(name)
    }
  }

  public func status(_ name: String, in directory: RawDescriptor) throws(Errno) -> FileStatus {
    var status = stat()
    let result: Int32 = try retrying {
      name.isEmpty ? unsafe fstat(directory, &status) : unsafe fstatat(directory, name, &status, 0)
    }
    _ = result
    return FileStatus(status)
  }

  public func lock(_ descriptor: RawDescriptor, _ kind: LockKind, waits: Bool) throws(Errno) -> Bool {
    let operation =
      switch kind {
      case .exclusive: LOCK_EX
      case .shared: LOCK_SH
      case .none: LOCK_UN
      }
    do {
      _ = try retrying { flock(descriptor, waits ? operation : operation | LOCK_NB) }
      return true
    } catch .wouldBlock {
      return false
    }
  }

  public func facts(_ descriptor: RawDescriptor) throws(Errno) -> FileSystemFacts {
    var type: Int64 = 0
    var available: UInt64 = 0
    _ = try retrying { unsafe borg_file_system(descriptor, &type, &available) }
    return FileSystemFacts(syncsWhole: Self.syncsWhole(fileSystem: type), available: available)
  }

  /// Whether `syncfs` on this type of file system flushes to stable storage and reports failed write-back.
  ///
  /// Since Linux 5.8 it does on the file systems named here. Over FUSE it returns without telling the
  /// daemon, and on network file systems its effect is the client's alone: there each file is synced.
  private static func syncsWhole(fileSystem type: Int64) -> Bool {
    let trusted: [Int64] = [
      0xEF53,  // ext2, ext3, ext4
      0x5846_5342,  // xfs
      0x9123_683E,  // btrfs
      0xF2F5_2010,  // f2fs
      0x2FC1_2FC1,  // zfs
      0xCA45_1A4E,  // bcachefs
      0x0102_1994,  // tmpfs, which has nothing to flush
    ]
    return trusted.contains(type) && Self.kernelReportsSyncErrors
  }

  private static let kernelReportsSyncErrors: Bool = {
    var name = utsname()
    guard unsafe uname(&name) == 0 else { return false }
    let release = unsafe withUnsafePointer(to: &name.release) { field in
      unsafe field.withMemoryRebound(to: CChar.self, capacity: 65) { unsafe String(cString: $0) }
    }
    let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    return !numbers.lexicographicallyPrecedes([5, 8])
  }()
}

extension FileStatus {
  fileprivate init(_ status: stat) {
    let kind: EntryKind =
      switch status.st_mode & S_IFMT {
      case S_IFREG: .file
      case S_IFDIR: .directory
      default: .other
      }
    self.init(
      kind: kind, size: Int(status.st_size), modified: Int64(status.st_mtim.tv_sec),
      inode: UInt64(status.st_ino), device: UInt64(status.st_dev), links: Int(status.st_nlink),
      modifiedNanoseconds: Self.nanoseconds(status.st_mtim),
      accessedNanoseconds: Self.nanoseconds(status.st_atim))
  }

  /// 0 for what a file system says beyond the year 2262, or before 1677.
  private static func nanoseconds(_ time: timespec) -> Int64 {
    let (whole, overflows) = Int64(time.tv_sec).multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, overflowsToo) = whole.addingReportingOverflow(Int64(time.tv_nsec))
    return overflows || overflowsToo ? 0 : sum
  }
}

/// A path as the kernel takes it.
func terminated(_ path: [UInt8]) -> [CChar] { path.map { CChar(bitPattern: $0) } + [0] }

/// Runs a call that returns -1 on failure until a signal does not interrupt it.
func retrying<Result: SignedInteger>(_ call: () -> Result) throws(Errno) -> Result {
  while true {
    let result = call()
    if result != -1 { return result }
    let failure = Errno(rawValue: errno)
    if failure != .interrupted { throw failure }
  }
}

extension OpenMode {
  /// The mode of a file that is created, before the umask.
  var fileMode: UInt32 {
    switch self {
    case .create: 0o600
    case .createByMask: 0o666
    case .read, .directory, .update: 0
    }
  }
}
