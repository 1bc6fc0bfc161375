import BorgFormat

/// The methods of the dialect of b16 to b21; raw values are the wire names.
///
/// Source: borg 2.0.0b18 `src/borg/remote.py`, `RepositoryServer._rpc_methods`.
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
  /// Named by the original, which then fails to find it.
  case count = "__len__"

  /// Whether it may be called before the first `open`.
  var isAllowedUnopened: Bool {
    switch self {
    case .negotiate, .open, .close: true
    case .info, .check, .list, .get, .put, .delete, .destroy, .saveKey, .loadKey, .getManifest,
      .putManifest, .breakLock, .storeList, .storeLoad, .storeStore, .storeDelete, .storeMove,
      .injectException, .count:
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
      .breakLock, .storeList, .storeLoad, .storeDelete, .storeMove, .injectException, .count:
      nil
    }
  }
}
