import BorgFormat
import Disk
import DiskSimulation
import Synchronization
import SystemPackage

@testable import SegmentRepository

/// Notes what is reported, as level and message. A class because the operation and the test share it.
final class NotedLines: Reporter {
  private let noted = Mutex<[String]>([])

  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {
    let line = "\(level) \(message())"
    noted.withLock { $0.append(line) }
  }

  func progress(_ progress: Progress) {}

  var lines: [String] { noted.withLock { $0 } }
}

/// A process that wants locks. Of host `here` the processes 100 to 199 are alive.
struct Party {
  let root: Directory
  let identity: LockIdentity
  let reporter = NotedLines()
  let cancellation = Cancellation()

  init(_ root: Directory, host: String = "here@1", process: Int = 100) {
    self.root = root
    identity = LockIdentity(
      hostID: { host }, processID: process, processIsAlive: { (100..<200).contains($0) })
  }

  /// The lock of one session.
  func lock() -> SegmentLock {
    SegmentLock(
      root: root, label: "repo", identity: identity, reporter: reporter, cancellation: cancellation)
  }

  func exclusive(_ wait: Duration? = .zero) throws(ServeError) -> SegmentLock {
    let lock = lock()
    try lock.acquireExclusive(wait: wait)
    return lock
  }

  func shared(_ wait: Duration? = .zero) throws(ServeError) -> SegmentLock {
    let lock = lock()
    try lock.acquireShared(wait: wait)
    return lock
  }
}

extension SimulatedDisk {
  func text(_ path: String) -> String? { contents(path).map { String(decoding: $0, as: UTF8.self) } }

  func install(_ text: String = "", at path: String) throws(Errno) {
    try install(Array(text.utf8), at: path)
  }
}

let exclusiveTimeout = ServeError.lockTimeout("repo/lock.exclusive")
let readersTimeout = ServeError.lockTimeout("repo/lock")
