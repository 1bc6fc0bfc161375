public import BorgFormat
public import SegmentRepository

/// The open repository of Borg 1.x as far as the session's client may use it: every request for it passes here once,
/// before the engine. What concerns the repository as a whole is decided in `SegmentSession`.
///
/// One thread at a time. Blocking, as the engine is.
public struct GrantedSegmentRepository {
  private let repository: SegmentRepository
  private let policy: SegmentPolicy

  init(_ repository: SegmentRepository, _ policy: SegmentPolicy) {
    (self.repository, self.policy) = (repository, policy)
  }

  /// 32 bytes.
  public var id: [UInt8] { repository.id }

  // MARK: Objects

  public func count() throws(ServeError) -> Int {
    try policy.require(.count, "counting objects")
    return try repository.count()
  }

  /// What a client does that reads in the mode `write-only`, as far as one of Borg 1.x that makes a backup can be told.
  ///
  /// Stock clients read archives here to bring their cache of chunks up to date, and go on with an empty one if they are
  /// told that objects are missing: they would store everything again.
  private static var readingForBackup: String {
    "reading objects (as a client does whose chunks cache is out of sync: have it synchronised once, by "
      + "`borg info` with a key that may read)"
  }

  /// See `SegmentRepository.locate`. In the mode `write-only` only the manifest is found; `activity` is what the refusal
  /// of everything else says that the client does.
  public func locate(_ id: ObjectID, for activity: String? = nil) throws(ServeError)
    -> SegmentRepository.LocatedObject
  {
    if !policy.denied.isDisjoint(with: .read), !id.isManifest {
      throw policy.denial(of: activity ?? Self.readingForBackup)
    }
    return try repository.locate(id)
  }

  /// Reads what was located last; see `SegmentRepository.read`.
  public func read(_ object: SegmentRepository.LocatedObject, into output: inout [UInt8]) throws(ServeError) {
    try repository.read(object, into: &output)
  }

  public func list(limit: Int?, after marker: ObjectID?) throws(ServeError) -> [ObjectID] {
    try policy.require(.list, "listing objects")
    return try repository.list(limit: limit, after: marker)
  }

  public func scan(limit: Int?, after marker: ObjectID?) throws(ServeError) -> [ObjectID] {
    try policy.require(.list, "listing objects")
    return try repository.scan(limit: limit, after: marker)
  }

  public func put(_ id: ObjectID, _ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) {
    try policy.require(.put, "storing an object")
    try repository.put(id, bytes, range)
  }

  public func delete(_ id: ObjectID) throws(ServeError) {
    try policy.require(.delete, "deleting an object")
    try repository.delete(id)
  }

  // MARK: Transactions

  /// Commits; where nothing may be compacted nothing is, and the client is not told: clients ask for it as a matter of
  /// course.
  public func commit(_ request: SegmentRepository.CommitRequest) throws(ServeError) {
    try policy.require(.commit, "committing")
    var request = request
    if !policy.admits(.compact) { (request.compact, request.cleanupCommits) = (false, false) }
    try repository.commit(request)
  }

  public func rollback() throws(ServeError) {
    try policy.require(.rollback, "rolling back")
    try repository.rollback()
  }

  public func check(_ request: SegmentRepository.CheckRequest) throws(ServeError) -> Bool {
    try policy.require(.check, "checking the repository")
    if request.repairs { try policy.require(.repair, "repairing the repository") }
    if request.maxDuration != nil { try policy.require(.checkInParts, "checking the repository in parts") }
    var request = request
    request.notesProgress = policy.admits(.checkInParts)
    return try repository.check(request)
  }

  // MARK: Key, nonce and locks

  public func saveKey(_ key: [UInt8]) throws(ServeError) {
    try policy.require(.storeFirstKey, "storing a key")
    guard !policy.admits(.replaceKey) else { return try repository.saveKey(key) }
    guard try repository.saveFirstKey(key) else { throw policy.denial(of: "replacing the key") }
  }

  public func loadKey() throws(ServeError) -> [UInt8] {
    try policy.require(.loadKey, "reading the key")
    return try repository.loadKey()
  }

  public func freeNonce() throws(ServeError) -> UInt64? {
    try policy.require(.readNonce, "reading the nonce")
    return try repository.freeNonce()
  }

  public func reserveNonces(upTo next: UInt64, from start: UInt64?) throws(ServeError) {
    try policy.require(
      .raiseNonce,
      "reserving nonces (as a client does to encrypt, in `borg check` too: use --repository-only)")
    guard policy.admits(.lowerNonce) else {
      // The engine holds `start` against what is stored, under the lock: another session may be about to raise it.
      if next < start ?? 0 { throw policy.denial(of: "lowering the nonce") }
      try repository.requireLockForWriting()
      return try repository.reserveNonces(upTo: next, from: start)
    }
    try repository.reserveNonces(upTo: next, from: start)
  }

  /// Removes all locks, or, where those of others are protected, those of processes that are gone.
  public func breakLock() throws(ServeError) {
    try policy.require(.breakStaleLocks, "breaking locks")
    guard !policy.admits(.breakLivingLocks) else { return try repository.breakLock() }
    guard try repository.breakStaleLocks() > 0 else { return }
    throw policy.denial(of: "breaking a lock whose owner may still be alive")
  }
}

extension ObjectID {
  /// The id of the manifest of a Borg 1.x repository.
  public static let manifest = ObjectID(0, 0, 0, 0)

  /// Whether this names the manifest of a Borg 1.x repository: all bytes are zero.
  var isManifest: Bool { word0 | word1 | word2 | word3 == 0 }
}
