import BorgFormat

/// What can be done to a repository of Borg 1.x, as far as the administrator's modes tell it apart.
struct SegmentOperations: OptionSet, Hashable, Sendable {
  let rawValue: UInt32

  static let create = Self(rawValue: 1 << 0)
  static let destroy = Self(rawValue: 1 << 1)
  static let check = Self(rawValue: 1 << 2)
  /// A check that goes on another time: it notes in the config how far it came.
  static let checkInParts = Self(rawValue: 1 << 3)
  static let repair = Self(rawValue: 1 << 4)
  /// `list` and `scan`.
  static let list = Self(rawValue: 1 << 5)
  static let count = Self(rawValue: 1 << 6)
  static let readManifest = Self(rawValue: 1 << 7)
  static let read = Self(rawValue: 1 << 8)
  static let put = Self(rawValue: 1 << 9)
  static let delete = Self(rawValue: 1 << 10)
  static let commit = Self(rawValue: 1 << 11)
  /// Freeing what a commit leaves behind.
  static let compact = Self(rawValue: 1 << 12)
  static let rollback = Self(rawValue: 1 << 13)
  static let loadKey = Self(rawValue: 1 << 14)
  /// The first key of a repository, as `borg init` stores it.
  static let storeFirstKey = Self(rawValue: 1 << 15)
  static let replaceKey = Self(rawValue: 1 << 16)
  static let readNonce = Self(rawValue: 1 << 17)
  static let raiseNonce = Self(rawValue: 1 << 18)
  static let lowerNonce = Self(rawValue: 1 << 19)
  /// Locks of processes of this host that are gone.
  static let breakStaleLocks = Self(rawValue: 1 << 20)
  static let breakLivingLocks = Self(rawValue: 1 << 21)

  /// Every one, in order.
  static let all = (0..<22).map { Self(rawValue: 1 << $0) }
}

/// What a client may do to a repository of Borg 1.x: a pure function of what the administrator chose.
///
/// Borg 1.x has one such choice, `--append-only`. Its log keeps what is overwritten or deleted until somebody compacts it,
/// so that in the modes that protect what is there deletes are logged and answered, as clients need it for their
/// checkpoints, and nothing is compacted. What the log does not keep, the key, the nonce and the locks of others, is
/// protected here, by `--append-only` too, where the original leaves it to the client.
struct SegmentPolicy: Hashable, Sendable {
  let mode: Permissions
  /// What is refused.
  let denied: SegmentOperations
  /// Whether the log only grows, whatever the repository's config says.
  let isAppendOnly: Bool

  /// `appendOnly` is the server's option; a repository's own flag is its owner's, and protects only the log.
  init(mode: Permissions, appendOnly: Bool) {
    self.mode = mode
    isAppendOnly = appendOnly || mode == .noDelete || mode == .writeOnly
    // What the log itself cannot take back.
    let unlogged: SegmentOperations = [.compact, .replaceKey, .lowerNonce, .breakLivingLocks]
    // The config as a whole stays, so that no key appears in it either where clients keep theirs elsewhere.
    let protected = unlogged.union([.create, .destroy, .repair, .checkInParts, .storeFirstKey])
    denied =
      switch mode {
      case .all: appendOnly ? unlogged.union([.destroy, .repair]) : []
      case .noDelete: protected
      case .writeOnly: protected.union([.check, .list, .read])
      case .readOnly: protected.union([.put, .delete, .commit, .raiseNonce])
      }
  }

  func admits(_ operation: SegmentOperations) -> Bool { denied.isDisjoint(with: operation) }

  /// Throws unless the operation is admitted; `what` says in the message what was tried.
  func require(_ operation: SegmentOperations, _ what: @autoclosure () -> String) throws(ServeError) {
    guard !admits(operation) else { return }
    throw denial(of: what())
  }

  func denial(of what: String) -> ServeError {
    mode == .all ? .permissionDenied("\(what) is not permitted with --append-only") : mode.denial(of: what)
  }
}
