import BorgFormat

/// Whose repositories an `open` is for: Borg 2's own, or, with `v1_or_v2`, those of Borg 1.x.
enum RepositoryKind: Sendable {
  case borg1
  case borg2
}

/// The methods of the dialect of b16 to b21; raw values are the wire names.
///
/// Source: borg 2.0.0b18 `src/borg/remote.py`, `RepositoryServer._rpc_methods`, `_legacy_rpc_methods`.
enum RPCMethod: String, CaseIterable, Sendable {
  case negotiate, open, close, info, check, list, get, put, delete, destroy
  case saveKey = "save_key"
  case loadKey = "load_key"
  case getManifest = "get_manifest"
  case putManifest = "put_manifest"
  case breakLock = "break_lock"
  case storeList = "store_list"
  case storeLoad = "store_load"
  case storeStore = "store_store"
  case storeDelete = "store_delete"
  case storeMove = "store_move"
  case injectException = "inject_exception"
  /// For a repository of Borg 2 named by the original, which then fails to find it.
  case count = "__len__"
  case commit, rollback

  /// Whether it may be called after an `open` for a repository of that kind, even a refused one; nil: before the first.
  func isKnown(after opened: RepositoryKind?) -> Bool {
    switch self {
    case .negotiate, .open, .close: true
    case .info, .check, .list, .get, .put, .delete, .destroy, .saveKey, .loadKey, .getManifest, .breakLock,
      .injectException, .count:
      opened != nil
    case .putManifest, .storeList, .storeLoad, .storeStore, .storeDelete, .storeMove: opened == .borg2
    case .commit, .rollback: opened == .borg1
    }
  }

  /// Whether it is the connection's affair, and not that of the repository that is open.
  var isOfConnection: Bool {
    switch self {
    case .negotiate, .open, .close, .injectException: true
    case .info, .check, .list, .get, .put, .delete, .destroy, .saveKey, .loadKey, .getManifest, .putManifest,
      .breakLock, .storeList, .storeLoad, .storeStore, .storeDelete, .storeMove, .count, .commit, .rollback:
      false
    }
  }

  /// Largest value that the method takes; nil if it takes none worth receiving.
  var valueLimit: Int? {
    switch self {
    case .put: Limits.putData
    case .storeStore: Limits.chunkIndex
    case .saveKey, .putManifest: Limits.smallObject
    case .negotiate, .open, .close, .info, .check, .list, .get, .delete, .destroy, .loadKey, .getManifest,
      .breakLock, .storeList, .storeLoad, .storeDelete, .storeMove, .injectException, .count, .commit,
      .rollback:
      nil
    }
  }
}
