/// A Borg version as it travels in `negotiate`: release numbers, then a marker that orders pre-releases.
///
/// `[major, minor, patch]` followed by `-1` for a release, or `-4, n` alpha, `-3, n` beta, `-2, n` release
/// candidate; compared element by element. Source: borg 2.0.0b18 `src/borg/version.py`.
public struct BorgVersion: Hashable, Comparable, Sendable {
  public let parts: [Int64]

  public init(_ parts: [Int64]) {
    self.parts = parts
  }

  /// The version that this server reports: the newest beta whose wire behaviour it shares with all others.
  public static let reported = BorgVersion([2, 0, 0, -3, 18])

  /// The version that clients of Borg 1.x are told.
  public static let reportedToBorg1 = BorgVersion([1, 4, 5, -1])

  /// The first client that keeps partial checks' checkpoints in `cache/`, not `config/`.
  public static let checkpointInCache = BorgVersion([2, 0, 0, -3, 17])

  /// The first client that knows (and whose cache code relies on) `StoreObjectNotFound`.
  public static let storeObjectNotFound = BorgVersion([2, 0, 0, -3, 21])

  public static func < (left: BorgVersion, right: BorgVersion) -> Bool {
    left.parts.lexicographicallyPrecedes(right.parts)
  }
}
