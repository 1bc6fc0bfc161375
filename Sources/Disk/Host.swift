import CSyscalls
import Glibc
public import SystemPackage

/// What this process knows of the machine that it runs on.
public enum Host {
  public static var processID: Int { Int(getpid()) }

  /// Whether a process of this machine exists; one that may not be signalled does.
  public static func processIsAlive(_ id: Int) -> Bool {
    guard id > 0, let id = pid_t(exactly: id) else { return false }
    return kill(id, 0) == 0 || errno != ESRCH
  }

  /// Milliseconds since 1970 UTC.
  public static func now() -> Int64 {
    var time = timespec()
    unsafe _ = clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }

  /// The name by which other Borg processes on this machine know it in lock objects:
  /// `fully.qualified.name@` and the decimal hardware address.
  ///
  /// Asks the name service, so it may block; ask once, and late. Source: borg 2.0.0b18
  /// `src/borg/platform/base.py`, Python's `uuid.getnode`.
  public static func identity() -> String {
    var address = borg_hardware_address()
    // Without a hardware address Python takes a random one with the multicast bit set, per process.
    if address == 0 { address = UInt64.random(in: 0..<1 << 48) | 1 << 40 }
    return "\(canonicalName())@\(address)"
  }

  private static func canonicalName() -> String {
    var buffer = [CChar](repeating: 0, count: 256)
    guard unsafe gethostname(&buffer, buffer.count - 1) == 0 else { return "localhost" }
    let bytes = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    let name = String(decoding: bytes, as: UTF8.self)
    var hints = unsafe addrinfo()
    unsafe hints.ai_flags = AI_CANONNAME
    var found: UnsafeMutablePointer<addrinfo>?
    guard unsafe getaddrinfo(name, nil, &hints, &found) == 0, let first = unsafe found else { return name }
    defer { unsafe freeaddrinfo(first) }
    guard let canonical = unsafe first.pointee.ai_canonname else { return name }
    return unsafe String(cString: canonical)
  }

  /// Sleeps, whatever happens. For delays too short to be worth interrupting.
  public static func pause(_ duration: Duration) {
    let (seconds, attoseconds) = max(duration, .zero).components
    var wanted = timespec(tv_sec: Int(seconds), tv_nsec: Int(attoseconds / 1_000_000_000))
    var left = timespec()
    while unsafe nanosleep(&wanted, &left) != 0, errno == EINTR { wanted = left }
  }

  /// Random bytes from the kernel.
  public static func randomBytes(_ count: Int) -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    return (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
  }

  /// The command line's words as bytes, the program's name first: paths in them need not be UTF-8.
  public static func arguments() -> [[UInt8]] {
    (0..<Int(CommandLine.argc)).compactMap { index in
      guard let word = unsafe CommandLine.unsafeArgv[index] else { return nil }
      return unsafe bytes(of: word)
    }
  }

  private static func bytes(of text: UnsafePointer<CChar>) -> [UInt8] {
    unsafe Array(UnsafeBufferPointer(start: text, count: strlen(text))).map { UInt8(bitPattern: $0) }
  }

  /// The value of an environment variable, as bytes.
  public static func environment(_ name: String) -> [UInt8]? {
    guard let value = unsafe getenv(name) else { return nil }
    return unsafe bytes(of: value)
  }

  /// The home directory of a user, or of the one this process runs as; nil if the user is not known.
  public static func homeDirectory(of user: [UInt8]? = nil) -> [UInt8]? {
    guard user?.contains(0) != true else { return nil }
    var record = unsafe passwd()
    var buffer = [CChar](repeating: 0, count: 16 * 1024)
    var found: UnsafeMutablePointer<passwd>?
    if let user {
      let name = terminated(user)
      _ = unsafe getpwnam_r(name, &record, &buffer, buffer.count, &found)
    } else {
      _ = unsafe getpwuid_r(geteuid(), &record, &buffer, buffer.count, &found)
    }
    // What the record points to lies in the buffer.
    return withExtendedLifetime(buffer) {
      guard let home = unsafe found?.pointee.pw_dir else { return nil }
      return unsafe bytes(of: home)
    }
  }

  /// The running program's absolute path, links resolved; nil if it cannot be told, or is no longer there.
  public static func executable() -> [UInt8]? {
    var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
    let length = unsafe readlink("/proc/self/exe", &buffer, buffer.count)
    guard length > 0, length < buffer.count else { return nil }
    let path = buffer.prefix(length).map { UInt8(bitPattern: $0) }
    // The kernel marks the name of a program that was replaced.
    let mark = " (deleted)".utf8
    return path.suffix(mark.count).elementsEqual(mark) ? nil : path
  }

  /// Becomes another program, which gets the rest of the process as it is; returns only if that fails.
  public static func replace(by program: [UInt8], arguments: [[UInt8]]) -> Errno {
    let path = terminated(program)
    // All words behind one another, each with its end, and where each begins.
    var text = arguments.flatMap(terminated)
    var starts: [Int] = []
    var start = 0
    for argument in arguments {
      starts.append(start)
      start += argument.count + 1
    }
    return unsafe text.withUnsafeMutableBufferPointer { buffer in
      let base = buffer.baseAddress
      var pointers = unsafe starts.map { start in unsafe base.map { unsafe $0 + start } } + [nil]
      _ = unsafe execv(path, &pointers)
      return Errno(rawValue: errno)
    }
  }
}
