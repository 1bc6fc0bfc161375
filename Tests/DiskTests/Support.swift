import Disk
import Glibc
import SystemPackage
import Testing

/// How long anything may take that needs no time: a test that waits longer has found a hang.
let deadline = Duration.seconds(20)

/// A directory of the test's own, in memory where the machine has room for that.
final class TemporaryDirectory: Sendable {
  /// Absolute, without links.
  let path: [UInt8]
  let directory: Directory
  private let parent: Directory
  private let name: String

  /// Its path has always the same length, so that recorded bytes may name it.
  static let pathLength = 40

  init() throws {
    let base = (try? RepositoryPath(resolving: Array("/dev/shm".utf8)).open()) == nil ? "/tmp" : "/dev/shm"
    let parent = try RepositoryPath(resolving: Array(base.utf8))
    let start = "borg-serve-"
    let digits = Host.randomBytes(Self.pathLength).map { String($0 % 16, radix: 16) }
    name = start + digits.prefix(Self.pathLength - parent.bytes.count - 1 - start.count).joined()
    path = parent.bytes + Array("/\(name)".utf8)
    self.parent = try parent.open()
    try self.parent.makeDirectory(name)
    directory = try self.parent.directory(name)
  }

  deinit { try? parent.removeTree(name) }
}

func terminated(_ path: [UInt8]) -> [CChar] { path.map { CChar(bitPattern: $0) } + [0] }

/// Both ends of a pipe, or of a socket.
final class Channel: Sendable {
  let reader: Int32
  let writer: Int32

  enum Kind: CaseIterable { case pipe, socket }

  init(_ kind: Kind = .pipe) throws {
    var ends: [Int32] = [-1, -1]
    let result =
      switch kind {
      case .pipe: unsafe pipe(&ends)
      case .socket: unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
      }
    try #require(result == 0)
    (reader, writer) = (ends[0], ends[1])
  }

  private let open = Monitor((reader: true, writer: true))

  func closeReader() {
    let isOpen = open.withLock { open in
      defer { open.reader = false }
      return open.reader
    }
    if isOpen { _ = close(reader) }
  }

  func closeWriter() {
    let isOpen = open.withLock { open in
      defer { open.writer = false }
      return open.writer
    }
    if isOpen { _ = close(writer) }
  }

  deinit {
    closeReader()
    closeWriter()
  }
}

/// Work on a thread of its own, whose result may be waited for.
final class Background<Result: Sendable>: Sendable {
  private let result = Monitor<Result?>(nil)

  init(_ body: @escaping @Sendable () -> Result) throws {
    let result = self.result
    _ = try #require(
      WorkerThread {
        let value = body(); result.update { $0 = value }
      })
  }

  /// The result; nil if it does not come in time.
  func value(within timeout: Duration = deadline) -> Result? {
    result.wait(timeout: timeout) { $0 }
  }
}
