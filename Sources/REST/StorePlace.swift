public import BorgFormat
public import Storage

/// Where a store is, or may be made: what a transport's addresses lead to. Blocking and thread-safe.
public protocol StorePlace: Sendable {
  /// The store that is there. Throws `repositoryMissing` if there is none.
  func store() throws(ServeError) -> any PathStore

  /// Makes an empty store, with missing parents. Throws `repositoryExists` for a directory with something in it.
  func create() throws(ServeError)

  /// Removes the store and all that is in it. Throws `repositoryMissing` if there is none, and `repositoryInvalid` for a
  /// directory that is no store's.
  func destroy() throws(ServeError)

  /// Bytes that may be stored here and bytes that are, or nil without a quota.
  func quota() throws(ServeError) -> (limit: UInt64, usage: UInt64)?

  /// See `PathStore.tick`; nothing happens as long as no store was asked for.
  func tick()

  /// Makes everything durable and gives the store up; one that is asked for later is opened anew.
  func close() throws(ServeError)
}
