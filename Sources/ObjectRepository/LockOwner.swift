public import Disk
import Synchronization

/// Who holds the locks of this process, as other Borg processes are to see it, and how it judges theirs.
///
/// A class because finding the host's name may ask the network: it is done once, when a lock is first
/// wanted.
public final class LockOwner: Sendable {
  private let override: String?
  private let found = Mutex<String?>(nil)
  private let lastStamp = Mutex<Int64>(.min)
  /// Milliseconds since 1970 UTC.
  let now: @Sendable () -> Int64
  /// Whether a process of this host exists.
  public let processIsAlive: @Sendable (Int) -> Bool

  /// `hostID` replaces the host's own identity (`BORG_HOST_ID`); the clock and the process table are the
  /// machine's unless a test brings its own.
  public init(
    hostID: String?, now: @escaping @Sendable () -> Int64 = Host.now,
    processIsAlive: @escaping @Sendable (Int) -> Bool = Host.processIsAlive
  ) {
    override = hostID
    self.now = now
    self.processIsAlive = processIsAlive
  }

  /// How other Borg processes know this host. May block on the name service the first time.
  public var hostID: String {
    if let override { return override }
    if let hostID = found.withLock({ $0 }) { return hostID }
    let hostID = Host.identity()
    found.withLock { $0 = hostID }
    return hostID
  }

  /// This process, as it stands in locks.
  public var processID: Int { Host.processID }

  /// The time to write into a new lock: now, or up to 10 s later, so that no two locks of this process have the same.
  ///
  /// A lock's key is the hash of what it holds: two shared locks that two sessions write in one millisecond would be
  /// one, and the first to release it would leave the other without. If the clock was set back by more, the times start
  /// again with it: locks that are dated ahead would not go stale.
  func stamp() -> Int64 {
    let now = now()
    return lastStamp.withLock { last in
      let isAhead = last >= now && last - now < 10_000
      last = isAhead ? last + 1 : now
      return last
    }
  }
}
