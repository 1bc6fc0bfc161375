public import BorgFormat
public import Disk
import SystemPackage

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
    /// Whether it was created a moment ago: it is removed again if there is no room for the first transaction.
    public var isNew = false
    /// Numbers for the operations whose progress is reported.
    public var operations = OperationNumbers()

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
    /// Whether the config may be changed, which says how far a partial check came until a full one removes that.
    public var notesProgress = true

    public init() {}
  }

  /// Where an object is in the log, and how many bytes its data has.
  public struct LocatedObject: Sendable {
    /// Bytes of the data.
    public let size: Int
    let location: EntryLocation
  }

  let root: Directory
  /// The repository's path as the client spells it.
  let label: String
  let options: Options
  let reporter: any Reporter
  let cancellation: Cancellation
  let configFile: ConfigFile
  private(set) var config: RepositoryConfig
  let nonceFile: NonceFile
  private let locks: SegmentLock
  /// The lock that is held, unless there is to be none.
  private(set) var lock: SegmentLock?
  let log: SegmentLog
  /// Bytes that all PUT entries may take together; nil for no limit.
  let quota: Int?
  /// Whether it was removed through this session.
  private var isGone = false

  /// Where everything is, from the first call that needs it until the state is forgotten.
  var index: SegmentIndex?
  /// The transaction that `index` is of; nil if nothing was ever committed.
  var transactionID: UInt32?
  /// What compaction has to know: loaded for a transaction, or found by a replay together with `index`.
  var hints: Hints?
  /// Whether something was written since the last commit or rollback.
  var isActive = false
  /// Whether the open transaction has anything in the log.
  var hasEntries = false
  /// Why the open transaction cannot be committed any more.
  var doom: ServeError?
  /// The first bytes of the entry that was located last.
  private var head = [UInt8](repeating: 0, count: headSize)
  private var headLength = 0
  private var headCRC: UInt32 = 0

  /// Bytes that are read of an entry before its size is known: small objects are read with one call.
  private static let headSize = 4096

  /// 32 bytes.
  public var id: [UInt8] { config.id }

  /// Whether nothing is ever removed: no compaction, no repair, no end.
  public var isAppendOnly: Bool { options.appendOnly || config.appendOnly }

  /// Opens the repository in `root`. `label` is its path as the client spells it, for messages.
  ///
  /// Throws `repositoryInvalid`, `repositoryConfigInvalid`, `repositoryAttic`, `lockTimeout`, `lockFailed`, `cancelled`;
  /// then no lock is held.
  public init(
    root: Directory, label: String, options: Options, identity: LockIdentity, reporter: any Reporter,
    cancellation: Cancellation
  ) throws(ServeError) {
    (self.root, self.label, self.options) = (root, label, options)
    (self.reporter, self.cancellation) = (reporter, cancellation)
    configFile = ConfigFile(root: root, label: label, reporter: reporter)
    nonceFile = NonceFile(root: root, label: label, reporter: reporter)
    // Looked at before anything is locked: in what is no repository nothing is to be left, not even for a moment.
    config = try configFile.load()
    locks = SegmentLock(
      root: root, label: label, identity: identity, reporter: reporter, cancellation: cancellation)
    switch options.locking {
    case .none: lock = nil
    case .exclusive:
      try locks.acquireExclusive(wait: options.lockWait)
      lock = locks
    case .shared, .upgradable:
      try locks.acquireShared(wait: options.lockWait)
      lock = locks
    }
    do {
      // Somebody may have changed it while the lock was waited for.
      if lock != nil { config = try configFile.load() }
      log = SegmentLog(
        root: root, segmentsPerDirectory: UInt32(clamping: max(1, config.segmentsPerDirectory)),
        limit: config.maxSegmentSize)
      let quota = options.storageQuota.map { Int(clamping: $0) } ?? config.storageQuota
      self.quota = quota == 0 ? nil : quota
      try refuseAttic()
    } catch {
      try? lock?.release()
      throw error
    }
  }

  private func refuseAttic() throws(ServeError) {
    guard let last = try log.latestSegment() else { return }
    let magic = try ServeError.doing("read", "segment \(last)") { () throws(Errno) in
      try root.file(log.name(of: last)).read(at: 0, count: SegmentFormat.atticMagic.count)
    }
    if magic == SegmentFormat.atticMagic { throw .repositoryAttic(label) }
  }

  /// Closes the segment that is being written, durably, and releases the lock. What was not committed stays on disk until
  /// the next transaction begins.
  public func close() throws(ServeError) {
    forget()
    let ended = Result { () throws(ServeError) in
      try log.finishSegment()
      try log.sync()
    }
    let lock = lock
    self.lock = nil
    try lock?.release()
    try ended.get()
  }

  /// Removes the repository, its config first, and releases the lock.
  public func destroy() throws(ServeError) {
    try requireWritable("destroying the repository")
    guard !isAppendOnly else { throw .argumentValue("\(label) is in append-only mode") }
    try removeAll()
  }

  /// Removes the repository, whatever is demanded of it otherwise.
  func removeAll() throws(ServeError) {
    forget()
    log.abandon()
    isGone = true
    let removed = Result { () throws(ServeError) in try Self.removeTree(of: root, label: label) }
    // Its files went with the rest.
    try? lock?.release()
    lock = nil
    try removed.get()
  }

  /// Throws if the repository was removed through this session.
  func requirePresence() throws(ServeError) {
    if isGone { throw .notOpen }
  }

  /// Takes the exclusive lock for a session that was opened without any; for the others see `reserveNonces`.
  public func requireLockForWriting() throws(ServeError) {
    try requirePresence()
    if lock == nil { try lockForWriting() }
  }

  /// Takes the exclusive lock for a session that was opened without any.
  func lockForWriting() throws(ServeError) {
    try locks.acquireExclusive(wait: options.lockWait)
    lock = locks
    // Nothing has kept others from writing since it was looked at.
    forget()
    config = try configFile.load()
  }

  // MARK: State

  /// Forgets all that was derived from the disk, and the open transaction: another program may change it from now on.
  func forget() {
    index = nil
    hints = nil
    transactionID = nil
    isActive = false
    hasEntries = false
    doom = nil
    headLength = 0
    log.forgetReaders()
  }

  func requireWritable(_ what: String) throws(ServeError) {
    if options.isReadOnly { throw Permissions.readOnly.denial(of: what) }
  }

  /// Throws the original's assertion unless nobody else can be at work here.
  func requireExclusiveLock() throws(ServeError) {
    try requirePresence()
    guard let lock, !lock.holdsExclusive else { return }
    throw .assertion("bug in code, exclusive lock should exist here")
  }

  func nextOperation() -> Int { options.operations.next() }

  func stopIfCancelled() throws(ServeError) {
    if cancellation.isCancelled { throw .cancelled }
  }

  // MARK: Objects

  /// Objects in the index.
  public func count() throws(ServeError) -> Int { try settledIndex().count }

  /// Finds an object. Throws `objectMissing`.
  public func locate(_ id: ObjectID) throws(ServeError) -> LocatedObject {
    guard let location = try settledIndex().location(of: id) else { throw .objectMissing(id.hex) }
    let header = try readHead(at: location, of: id)
    return LocatedObject(size: header.size - SegmentFormat.keyedHeaderSize, location: location)
  }

  /// Reads what is at the beginning of a PUT, and checks that it is the wanted one.
  private func readHead(at location: EntryLocation, of id: ObjectID) throws(ServeError) -> SegmentEntryHeader
  {
    let (segment, offset) = (location.segment, Int(location.offset))
    let file: OpenFile
    do {
      file = try log.reader(of: segment)
    } catch .system(let failure) where failure.code == Errno.noSuchFileOrDirectory.rawValue {
      throw .integrity("segment \(segment) is missing")
    }
    headLength = 0
    headLength = try ServeError.doing("read", "segment \(segment)") { () throws(Errno) in
      try file.read(at: offset, into: &head, count: head.count)
    }
    func fault(_ fault: SegmentFault) -> ServeError { .integrity(fault.message) }
    let bytes = head
    guard headLength >= SegmentFormat.keyedHeaderSize, let header = SegmentEntryHeader(bytes.span, at: 0)
    else {
      throw fault(.shortHeader(segment: segment, offset: offset, needed: SegmentFormat.keyedHeaderSize))
    }
    guard header.size <= SegmentFormat.entryLimit else {
      throw fault(.tooBig(segment: segment, offset: offset, size: header.size))
    }
    guard header.size >= SegmentFormat.keyedHeaderSize else {
      throw fault(.tooSmall(segment: segment, offset: offset, size: header.size))
    }
    headCRC = header.crc
    guard header.tag == .put, ObjectID(bytes.span.extracting(9..<41)) == id else {
      // Damage is said to be damage, whatever it has hit.
      var data: [UInt8] = []
      try read(
        LocatedObject(size: header.size - SegmentFormat.keyedHeaderSize, location: location), into: &data)
      throw header.tag == .put
        ? fault(.notWantedID(segment: segment, offset: offset))
        : fault(.unacceptableTag(segment: segment, offset: offset))
    }
    return header
  }

  /// Bytes of the PUT at a location.
  func entrySize(at location: EntryLocation, of id: ObjectID) throws(ServeError) -> Int {
    try readHead(at: location, of: id).size
  }

  /// Appends the data of the object that was located last to `output`, and verifies it. Throws `integrity`; what `output`
  /// holds then behind its old end is nobody's.
  public func read(_ object: LocatedObject, into output: inout [UInt8]) throws(ServeError) {
    let (segment, offset) = (object.location.segment, Int(object.location.offset))
    let start = SegmentFormat.keyedHeaderSize
    let position = output.count
    let known = min(headLength - start, object.size)
    output += head[start..<start + known]
    if known < object.size {
      let file = try log.reader(of: segment)
      let count = try ServeError.doing("read", "segment \(segment)") { () throws(Errno) in
        try file.read(at: offset + start + known, count: object.size - known, appendingTo: &output)
      }
      guard known + count == object.size else {
        throw .integrity(
          SegmentFault.shortData(segment: segment, offset: offset, expected: object.size, got: known + count)
            .message)
      }
    }
    let header = CRC32.checksum(head, 4..<start)
    let crc = CRC32.checksum(output, position..<position + object.size, continuing: header)
    guard headCRC == crc else {
      throw .integrity(SegmentFault.checksumMismatch(segment: segment, offset: offset).message)
    }
  }

  /// The next ids in the index's order, those behind `marker` if there is one; nil: all. Throws `markerUnknown`.
  public func list(limit: Int?, after marker: ObjectID?) throws(ServeError) -> [ObjectID] {
    guard let page = try settledIndex().page(after: marker, limit: limit ?? .max) else {
      throw .markerUnknown("marker not found")
    }
    return page
  }

  /// The next ids in the log's order; as `list`.
  ///
  /// Data is not verified. A segment whose entries cannot be told apart any more ends where that begins.
  public func scan(limit: Int?, after marker: ObjectID?) throws(ServeError) -> [ObjectID] {
    let most = limit ?? .max
    let index = try settledIndex()
    var start = EntryLocation(segment: 0, offset: 0)
    if let marker {
      guard let location = try index.location(of: marker) else { throw .markerUnknown(marker.hex) }
      start = location
    }
    var ids: [ObjectID] = []
    try log.forEachSegment(from: start.segment) { (segment) throws(ServeError) in
      try stopIfCancelled()
      let isFirst = marker != nil && segment == start.segment
      do throws(ServeError) {
        var cursor = try log.cursor(segment, from: isFirst ? Int(start.offset) : 0, .headers)
        if isFirst { _ = try cursor.next() }
        while let entry = try cursor.next() {
          guard entry.tag == .put,
            try index.location(of: entry.id)
              == EntryLocation(segment: segment, offset: UInt32(truncatingIfNeeded: entry.offset))
          else { continue }
          ids.append(entry.id)
          if ids.count == most { return false }
        }
      } catch .integrity {
        // Where its entries can be told apart no more.
      }
      return true
    }
    return ids
  }

  // MARK: Config, nonce and locks

  /// Stores the key in the config. Throws `argumentValue` for what the config could not be read back with.
  public func saveKey(_ key: [UInt8]) throws(ServeError) {
    try requireWritable("storing the key")
    try requirePresence()
    // Clients do this without the exclusive lock, and others may have changed the config since it was opened.
    var changed = try configFile.load()
    do {
      try changed.setKey(key)
    } catch .invalid(let reason) {
      throw .argumentValue("the key cannot be stored: \(reason)")
    } catch {
      throw .argumentValue("the key cannot be stored")
    }
    try saveConfig(changed)
  }

  /// As `saveKey`, if there is no key yet; false if there is one, whenever it was stored.
  public func saveFirstKey(_ key: [UInt8]) throws(ServeError) -> Bool {
    try requirePresence()
    guard try configFile.load().key == nil else { return false }
    try saveKey(key)
    return true
  }

  func saveConfig(_ changed: RepositoryConfig) throws(ServeError) {
    try configFile.save(changed, toleratesDenial: lock == nil)
    config = changed
  }

  /// The stored key; empty if there is none.
  public func loadKey() throws(ServeError) -> [UInt8] { config.key ?? [] }

  /// The nonce that clients may use next; nil if none was reserved yet.
  public func freeNonce() throws(ServeError) -> UInt64? {
    try requireExclusiveLock()
    return try nonceFile.load()
  }

  /// Reserves nonces up to `next`, if `start` is what is stored. Throws `nonceMismatch`.
  public func reserveNonces(upTo next: UInt64, from start: UInt64?) throws(ServeError) {
    try requireWritable("reserving nonces")
    try requireExclusiveLock()
    guard try nonceFile.load() == start else { throw .nonceMismatch }
    try nonceFile.save(next, toleratesDenial: lock == nil)
  }

  /// Removes all locks, whoever holds them.
  public func breakLock() throws(ServeError) { try locks.breakAll() }

  /// Removes the locks of processes of this host that are gone; returns how many others are left.
  public func breakStaleLocks() throws(ServeError) -> Int { try locks.breakStale() }
}
