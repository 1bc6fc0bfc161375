import BorgFormat

/// The methods of Borg 1.x; raw values are the wire names. The three that come by the thousands are first: names are
/// looked up in this order.
///
/// Source: borg 1.4.5 `src/borg/remote.py`, `RepositoryServer.rpc_methods`, `compatMap`; the same in 1.1 and 1.2.
enum Borg1Method: String, CaseIterable, Sendable {
  case put, get, delete
  case negotiate, open, check, commit, rollback, destroy
  case count = "__len__"
  case list, scan
  case saveKey = "save_key"
  case loadKey = "load_key"
  case breakLock = "break_lock"
  case freeNonce = "get_free_nonce"
  case reserveNonces = "commit_nonce_reservation"
  case injectException = "inject_exception"

  /// The arguments of the tuple form, in order; nil where the method came after that form.
  var positional: [Borg1Parameter]? {
    switch self {
    case .negotiate: [.clientData]
    case .open: [.path, .create, .lockWait, .lock, .exclusive, .appendOnly]
    case .check: [.repair, .saveSpace]
    case .commit: [.saveSpace]
    case .list: [.limit, .marker]
    case .put: [.id, .data]
    case .get, .delete: [.id]
    case .saveKey: [.keyData]
    case .reserveNonces: [.nextUnreserved, .startNonce]
    case .rollback, .destroy, .count, .loadKey, .breakLock, .freeNonce: []
    case .scan, .injectException: nil
    }
  }

  /// Whether a client that goes away while the method runs no longer wants it: it waits for others, or reads everything.
  var isAbandonedByHangup: Bool {
    switch self {
    case .open, .check: true
    case .put, .get, .delete, .negotiate, .commit, .rollback, .destroy, .count, .list, .scan, .saveKey,
      .loadKey,
      .breakLock, .freeNonce, .reserveNonces, .injectException:
      false
    }
  }

  static let names = WireNames<Self>()
}

/// The arguments of all methods; raw values are the wire names.
enum Borg1Parameter: String, CaseIterable, Sendable {
  case id, data
  case path, create
  case lockWait = "lock_wait"
  case lock, exclusive
  case appendOnly = "append_only"
  case makeParentDirs = "make_parent_dirs"
  case repair
  case saveSpace = "save_space"
  case maxDuration = "max_duration"
  case compact, threshold
  case cleanupCommits = "cleanup_commits"
  case limit, marker
  case keyData = "keydata"
  case nextUnreserved = "next_unreserved"
  case startNonce = "start_nonce"
  case kind
  case clientData = "client_data"

  static let names = WireNames<Self>()
}

/// Finds the case that a name on the wire stands for, without making a string of it.
struct WireNames<Name: CaseIterable & RawRepresentable & Sendable>: Sendable
where Name.RawValue == String {
  private let entries: [(bytes: [UInt8], name: Name)]

  init() {
    entries = Name.allCases.map { (Array($0.rawValue.utf8), $0) }
  }

  subscript(_ block: [UInt8], _ range: Range<Int>) -> Name? {
    for entry in entries where entry.bytes.count == range.count {
      var index = range.lowerBound
      for byte in entry.bytes {
        guard block[index] == byte else { break }
        index += 1
      }
      if index == range.upperBound { return entry.name }
    }
    return nil
  }
}
