import Disk
import Synchronization

/// Who holds the locks of this process, as other Borg processes are to see it.
///
/// A class because finding the host's name may ask the network: it is done once, when a lock is first
/// wanted.
public final class LockOwner: Sendable {
  private let override: String?
  private let found = Mutex<String?>(nil)

  /// `hostID` replaces the host's own identity (`BORG_HOST_ID`).
  public init(hostID: String?) {
    override = hostID
  }

  /// May block on the name service the first time.
  var hostID: String {
    if let override { return override }
    if let hostID = found.withLock({ $0 }) { return hostID }
    let hostID = Host.identity()
    found.withLock { $0 = hostID }
    return hostID
  }

  var processID: Int { Host.processID }
}
