import Synchronization

/// Hashes passwords on few threads of their own, so that logins take no time from those who are in. A class because it is
/// shared.
final class PasswordCheckers: Sendable {
  private let pool: WorkerPool
  private let credentials: Credentials
  private let waiting = Mutex(0)
  /// Checks that may wait, or run, at a time.
  private static let limit = 64

  init(_ credentials: Credentials, threads: Int) {
    self.credentials = credentials
    pool = WorkerPool(threads: threads)
  }

  /// Calls back with the verdict, from a thread of its own; false if too many wait already.
  func check(
    _ given: BasicCredentials, from site: [UInt8], then: @escaping @Sendable (Credentials.Verdict) -> Void
  ) -> Bool {
    let hasRoom = waiting.withLock { waiting in
      guard waiting < Self.limit else { return false }
      waiting += 1
      return true
    }
    guard hasRoom else { return false }
    pool.submit { [self] in
      defer { waiting.withLock { $0 -= 1 } }
      // Others may have failed, or have been right, while this one waited.
      let first = credentials.look(given, from: site)
      then(first == .unknown ? credentials.check(given, from: site) : first)
    }
    return true
  }

  func end() { pool.end() }
}
