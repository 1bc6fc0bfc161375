import BorgFormat
import Disk
import SystemPackage

// What sessions that were killed have left half-written: nobody ever reads it, and an original that finds index and hints
// in order removes it only when it commits.
extension SegmentRepository {
  /// Seconds after which a temporary file of the config or the nonce was left by somebody who is gone: clients replace
  /// those without a lock, too, but in no time.
  private static var abandonedSeconds: Int64 { 600 }

  /// Removes, among the names in the repository's directory, temporary files that nobody works with any more.
  ///
  /// Only under the exclusive lock, which whoever writes an index has, and not where nothing may be written. What fails is
  /// left to the next session.
  func removeLeftovers(among names: [String]) {
    let left = names.filter { $0.hasSuffix(".tmp") && (Self.isOfIndex($0) || Self.isOfSmallFile($0)) }
    guard !left.isEmpty, mayRemoveLeftovers else { return }
    // When the lock was taken, by the clock of the file system.
    let now = (try? root.status(LockDirectory.name)?.modified) ?? .min
    for name in left {
      if Self.isOfSmallFile(name) {
        guard let modified = try? root.status(name)?.modified,
          now > modified, now - modified >= Self.abandonedSeconds
        else { continue }
      }
      _ = try? root.remove(name)
    }
  }

  /// As `removeLeftovers`, for what a repair that was killed has left beside the segments.
  func removeSegmentLeftovers() {
    if mayRemoveLeftovers { log.removeTemporaries() }
  }

  private var mayRemoveLeftovers: Bool { !options.isReadOnly && (lock?.holdsExclusive ?? false) }

  /// `index.N.tmp` and the like: every Borg writes them by the same names, under the exclusive lock.
  private static func isOfIndex(_ name: String) -> Bool {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count == 3 && isAuxiliary(name) && SegmentLog.number(String(parts[1])) != nil
  }

  /// `config-XXXXXXXX.tmp` and `nonce-XXXXXXXX.tmp`.
  private static func isOfSmallFile(_ name: String) -> Bool {
    let parts = name.dropLast(".tmp".count).split(separator: "-", omittingEmptySubsequences: false)
    return parts.count == 2 && ["config", "nonce"].contains(parts[0]) && parts[1].utf8.count == 8
  }
}
