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
    let flags: Int32
    switch mode {
    case .read: return try openUntouched(name, in: directory)
    case .directory: flags = O_RDONLY | O_DIRECTORY
    case .create: flags = O_RDWR | O_CREAT | O_EXCL
    }
    return try retrying { unsafe openat(directory, name, flags | O_CLOEXEC, 0o600) }
  }

  /// Opens a file for reading, without a note of when: the first read of every object would change its inode, in the
  /// journal and on the disk. Only the file's owner may ask for that.
  private func openUntouched(_ name: String, in directory: RawDescriptor) throws(Errno) -> RawDescriptor {
    let flags = O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC
    do {
      return try retrying { unsafe openat(directory, name, flags | borg_no_access_time()) }
    } catch .notPermitted {
      return try retrying { unsafe openat(directory, name, flags) }
    }
  }

  /// Opens a directory by its absolute path, which may be any bytes but NUL.
  public func openDirectory(path: [UInt8]) throws(Errno) -> RawDescriptor {
    let terminated = path.map { CChar(bitPattern: $0) } + [0]
    return try retrying { unsafe Glibc.open(terminated, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
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

  public func syncFileSystem(_ descriptor: RawDescriptor) throws(Errno) {
    _ = try retrying { borg_sync_file_system(descriptor) }
  }

  public func rename(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor
  ) throws(Errno) {
    _ = try retrying { unsafe renameat(directory, name, newDirectory, newName) }
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
    let kind: EntryKind =
      switch status.st_mode & S_IFMT {
      case S_IFREG: .file
      case S_IFDIR: .directory
      default: .other
      }
    return FileStatus(
      kind: kind, size: Int(status.st_size), modified: Int64(status.st_mtim.tv_sec),
      inode: UInt64(status.st_ino), device: UInt64(status.st_dev))
  }

  public func lock(_ descriptor: RawDescriptor) throws(Errno) -> Bool {
    do {
      _ = try retrying { flock(descriptor, LOCK_EX | LOCK_NB) }
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

/// Runs a call that returns -1 on failure until a signal does not interrupt it.
func retrying<Result: SignedInteger>(_ call: () -> Result) throws(Errno) -> Result {
  while true {
    let result = call()
    if result != -1 { return result }
    let failure = Errno(rawValue: errno)
    if failure != .interrupted { throw failure }
  }
}
