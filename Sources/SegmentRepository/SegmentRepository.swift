public import BorgFormat
public import Disk

/// A repository of Borg 1.x: a log of segments, the index of what is where in it, and transactions.
///
/// One thread at a time; what another thread may do is to throw the switch of its `Cancellation`. Every call blocks. State
/// is derived from the disk anew after each commit, rollback and check: between two calls other programs may have changed
/// it. Source: borg 1.4.5 `src/borg/repository.py`.
public final class SegmentRepository {
  /// How a repository is locked while it is open.
  public enum Locking: Equatable, Sendable {
    case none
    case shared
    case exclusive
    /// Shared until something is to be written, as clients want it that do not know the difference.
    case upgradable
  }

  /// How a repository is opened.
  public struct Options: Sendable {
    public var locking = Locking.exclusive
    /// Nil: wait for ever; zero: one attempt.
    public var lockWait: Duration? = .seconds(1)
    /// Whether the repository only grows: demanded by the server's owner or by the client. Its own config may demand it
    /// too.
    public var appendOnly = false
    /// Bytes; 0 lifts the repository's own quota, nil leaves it.
    public var storageQuota: UInt64?
    /// Nothing but locks is written: recovery stays in memory, and every call that would write throws `permissionDenied`.
    public var isReadOnly = false

    public init() {}
  }

  /// What `commit` is asked for.
  public struct CommitRequest: Equatable, Sendable {
    public var compact = true
    /// A segment is compacted if more than this share of it is of no use.
    public var threshold = 0.1
    /// Whether segments that hold nothing but a commit are compacted in any case.
    public var cleanupCommits = false

    public init() {}
  }

  /// What `check` is asked for.
  public struct CheckRequest: Equatable, Sendable {
    public var repairs = false
    /// Seconds; nil: a full check.
    public var maxDuration: Duration?

    public init() {}
  }

  /// Where an object is in the log, and how many bytes its data has.
  public struct LocatedObject: Sendable {
    /// Bytes of the data.
    public let size: Int
    let segment: UInt32
    let offset: Int
  }

  /// 32 bytes.
  public var id: [UInt8] { [] }

  /// Opens the repository in `root`. `label` is its path as the client spells it, for messages.
  ///
  /// Throws `repositoryInvalid`, `repositoryConfigInvalid`, `repositoryAttic`, `lockTimeout`, `lockFailed`, `cancelled`;
  /// then no lock is held.
  public init(
    root: Directory, label: String, options: Options, identity: LockIdentity, reporter: any Reporter,
    cancellation: Cancellation
  ) throws(ServeError) {
    throw .unsupported("")
  }

  /// Closes the segment that is being written, durably, and releases the lock. What was not committed stays on disk until
  /// the next transaction begins.
  public func close() throws(ServeError) {}

  /// Removes the repository, its config first, and releases the lock.
  public func destroy() throws(ServeError) {}

  // MARK: Objects

  /// Objects in the index.
  public func count() throws(ServeError) -> Int { 0 }

  /// Finds an object. Throws `objectMissing`.
  public func locate(_ id: ObjectID) throws(ServeError) -> LocatedObject { throw .objectMissing(id.hex) }

  /// Appends the data of the object that was located last to `output`, and verifies it. Throws `integrity`; what `output`
  /// holds then behind its old end is nobody's.
  public func read(_ object: LocatedObject, _ id: ObjectID, into output: inout [UInt8]) throws(ServeError) {}

  /// The next ids in the index's order, those behind `marker` if there is one; nil: all. Throws `markerUnknown`.
  public func list(limit: Int?, after marker: ObjectID?) throws(ServeError) -> [ObjectID] { [] }

  /// The next ids in the log's order. Throws `markerUnknown`.
  public func scan(limit: Int?, after marker: ObjectID?) throws(ServeError) -> [ObjectID] { [] }

  /// Stores an object: a range of `bytes`, at most `Limits.putData` of them. Throws `integrity` for more.
  public func put(_ id: ObjectID, _ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) {}

  /// Throws `objectMissing`.
  public func delete(_ id: ObjectID) throws(ServeError) {}

  // MARK: Transactions

  public func commit(_ request: CommitRequest) throws(ServeError) {}

  /// Forgets the transaction; its segments are removed when the next one begins.
  public func rollback() throws(ServeError) {}

  /// Verifies all segments and the index; true if they are, or have been made, whole.
  public func check(_ request: CheckRequest) throws(ServeError) -> Bool { false }

  // MARK: Config, nonce and locks

  /// Stores the key in the config. Throws `argumentValue` for what is not UTF-8.
  public func saveKey(_ key: [UInt8]) throws(ServeError) {}

  /// The stored key; empty if there is none.
  public func loadKey() throws(ServeError) -> [UInt8] { [] }

  /// The nonce that clients may use next; nil if none was reserved yet.
  public func freeNonce() throws(ServeError) -> UInt64? { nil }

  /// Reserves nonces up to `next`, if `start` is what is stored. Throws `nonceMismatch`.
  public func reserveNonces(upTo next: UInt64, from start: UInt64?) throws(ServeError) {}

  /// Removes all locks, whoever holds them.
  public func breakLock() throws(ServeError) {}

  /// Removes the locks of processes of this host that are gone; returns how many others are left.
  public func breakStaleLocks() throws(ServeError) -> Int { 0 }
}
