public import BorgFormat
import Disk
import SystemPackage

extension SegmentRepository {
  // MARK: Begin

  /// Makes sure that a transaction is open: the lock exclusive, the state known, nothing left of uncommitted ones.
  func begin() throws(ServeError) {
    if let doom { throw doom }
    guard !isActive else { return }
    try requirePresence()
    try requireExclusiveForWriting()
    try settle()
    guard let index else { return }
    try removeUncommitted()
    if let transactionID {
      if hints != nil { try log.makeDurable(after: nil, upTo: transactionID) }
      try loadHintsOrReplay(of: transactionID, index)
      hints?.forgetShadows(after: transactionID)
      reportQuota()
    }
    isActive = true
  }

  /// Has `hints` be those of the transaction, from memory, from the disk, or from the segments.
  private func loadHintsOrReplay(of transaction: UInt32, _ index: SegmentIndex) throws(ServeError) {
    guard hints == nil else { return }
    if let known = try loadHints(transaction, index) {
      hints = known
    } else {
      try replay(from: nil, to: transaction)
      // Found once: a transaction that is given up would have to find it again.
      _ = try storeReplayed(transaction, after: nil)
    }
  }

  /// The exclusive lock: upgraded for clients that do not know the difference, and taken, as nothing else would keep
  /// other sessions' segments safe, for those that wanted none.
  func requireExclusiveForWriting() throws(ServeError) {
    guard let lock else { return try lockForWriting() }
    guard !lock.holdsExclusive else { return }
    guard options.locking == .upgradable else {
      throw .assertion("bug in code, exclusive lock should exist here")
    }
    try lock.upgrade(wait: options.lockWait)
    // Others may have been at work between the two locks.
    forget()
  }

  /// Removes what aborted transactions have left, and has the log go on behind the last commit.
  private func removeUncommitted() throws(ServeError) {
    guard let transactionID else {
      try removeAbortedFirst()
      return
    }
    let count = try log.removeSegments(after: transactionID)
    reporter.log(
      .debug, .repository,
      "Cleaned up \(count) uncommitted segment files (== everything after segment \(transactionID)).")
  }

  /// Removes what is left of a first transaction that was never committed: segments from 0 on, none missing, and no trace
  /// of an index. Whatever else is there without a commit may be all that is left of a repository.
  private func removeAbortedFirst() throws(ServeError) {
    let segments = try log.segments()
    let isContiguous = segments.enumerated().allSatisfy { Int($0.element) == $0.offset }
    let traces = try ServeError.doing("list", "the repository") { () throws(Errno) in
      try root.entries().filter(Self.isAuxiliary)
    }
    guard segments.isEmpty || isContiguous && traces.isEmpty else { throw .checkNeeded(label) }
    let count = try log.removeSegments(after: nil)
    reporter.log(.debug, .repository, "Cleaned up \(count) uncommitted segment files (== everything).")
  }

  func reportQuota() {
    guard let quota, let hints else { return }
    reporter.log(
      .info, .repository,
      "Storage quota: \(FileSize.text(hints.storageQuotaUse)) out of \(FileSize.text(quota)) used.")
  }

  // MARK: Write

  /// Stores an object: a range of `bytes`, at most `Limits.putData` of them.
  ///
  /// Throws `integrity` for more, and `storageQuotaExceeded` before anything is written; then the transaction can only be
  /// rolled back.
  public func put(_ id: ObjectID, _ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) {
    try requireWritable("storing")
    guard range.count <= Limits.putData else {
      throw .integrity("More than allowed put data [\(range.count) > \(Limits.putData)]")
    }
    try begin()
    let size = SegmentFormat.keyedHeaderSize + range.count
    if let quota {
      let use = (hints?.storageQuotaUse ?? 0) + size
      guard use <= quota else {
        let exceeded = ServeError.storageQuotaExceeded(
          quota: UInt64(clamping: quota), use: UInt64(clamping: use))
        doom = exceeded
        throw exceeded
      }
    }
    let old = try index?.location(of: id)
    // A DELETE first, so that compaction keeps what it must of the old one.
    if let old { try logDeletion(of: id, at: old) }
    let location = try writing { () throws(ServeError) in try log.appendPut(id, bytes, range) }
    hasEntries = true
    hints?.storageQuotaUse += size
    hints?.segments[location.segment, default: 0] += 1
    index?.set(id, to: location, isNew: old == nil)
  }

  /// Throws `objectMissing`.
  public func delete(_ id: ObjectID) throws(ServeError) {
    try requireWritable("deleting")
    try begin()
    guard let old = try index?.location(of: id) else { throw .objectMissing(id.hex) }
    try logDeletion(of: id, at: old)
    index?.remove(id)
  }

  /// Writes a DELETE and accounts for what it leaves behind.
  private func logDeletion(of id: ObjectID, at old: EntryLocation) throws(ServeError) {
    // Read before anything is changed or written: an entry that cannot be read ends here.
    let size = try entrySize(at: old, of: id)
    let segment = try writing { () throws(ServeError) in try log.appendDelete(id) }
    hasEntries = true
    hints?.shadowIndex[id, default: []].append(old.segment)
    hints?.segments[old.segment, default: 0] -= 1
    hints?.compact[old.segment, default: 0] += size
    hints?.compact[segment, default: 0] += SegmentFormat.keyedHeaderSize
    hints?.segments[segment, default: 0] += 0
  }

  /// A failure to write leaves entries in doubt that were answered already: nothing of the transaction can be kept.
  private func writing<Result>(_ body: () throws(ServeError) -> Result) throws(ServeError) -> Result {
    do {
      return try body()
    } catch {
      doom = error
      throw error
    }
  }

  // MARK: End

  /// Forgets the transaction; its segments are removed when the next one begins.
  public func rollback() throws(ServeError) {
    let ended = Result { () throws(ServeError) in try log.finishSegment() }
    forget()
    // What cannot be written of it is not wanted any more.
    if case .failure = ended { log.abandon() }
  }

  /// Makes everything written since the last commit durable and current, then compacts.
  ///
  /// Without a transaction nothing is done, nor for one of nothing where the log only grows. When it returns, the
  /// transaction is on stable storage, whatever became of compaction and index: those are mended by the next session, and
  /// a warning says so. If it throws, nothing of the transaction is kept.
  public func commit(_ request: CommitRequest) throws(ServeError) {
    try requireWritable("committing")
    if let doom {
      try abandonTransaction()
      throw doom
    }
    guard isActive else { return }
    // What would never be removed again is not to grow by commits of nothing, which no quota counts.
    if isAppendOnly, !hasEntries { return forget() }
    guard lock?.holdsExclusive ?? true else {
      log.abandon()
      forget()
      throw .assertion("bug in code, exclusive lock should exist here")
    }
    try requireFreeSpace()
    reportQuota()
    let segment: UInt32
    do {
      segment = try log.appendCommit()
    } catch {
      try? abandonTransaction()
      throw error
    }
    var last = segment
    hints?.noteCommit(in: segment)
    do {
      if request.compact && !isAppendOnly {
        if request.cleanupCommits { try noteCommitSegments() }
        let threshold = request.threshold.isFinite ? request.threshold : CommitRequest().threshold
        if let compacted = try compact(threshold: threshold) { last = compacted }
      }
      if let index, let hints { try storeIndex(index, hints, last) }
    } catch {
      reporter.log(
        .warning, .repository,
        "The transaction is committed, but what follows it failed and is left for the next one: "
          + Self.reason(error))
      // Copies under a commit that may not be durable must not become the only ones.
      log.abandon()
      if let committed = log.lastCommit, lock?.holdsExclusive ?? false {
        _ = try? log.removeSegments(after: committed)
      }
    }
    forget()
  }

  /// Removes what the open transaction has written.
  private func abandonTransaction() throws(ServeError) {
    let committed = transactionID
    let wasFirst = committed == nil
    log.abandon()
    forget()
    // Without the lock they may be somebody else's by now.
    guard let lock, lock.holdsExclusive else { return }
    if wasFirst {
      try removeAbortedFirst()
    } else {
      _ = try log.removeSegments(after: committed)
    }
  }

  /// Every segment of nothing but a commit is to be compacted: older versions have left many.
  private func noteCommitSegments() throws(ServeError) {
    for segment in try log.segments() where try log.size(of: segment) == SegmentFormat.commitSegmentSize {
      hints?.segments[segment] = 0
      hints?.compact[segment] = SegmentFormat.headerSize
    }
  }

  // MARK: Space

  /// Throws unless there is room for what a commit may have to write.
  ///
  /// Source: borg 1.4.5 `src/borg/repository.py`, `Repository.check_free_space`.
  private func requireFreeSpace() throws(ServeError) {
    guard let index, let hints else { return }
    var required = index.storedSize * 4
    required += 10 * (hints.segments.count + hints.compact.count) + 4096
    required += config.additionalFreeSpace
    if !isAppendOnly {
      let fullSegment = config.maxSegmentSize + SegmentFormat.entryLimit
      if hints.compact.count < 10 {
        var working = 0
        for (segment, free) in hints.compact {
          if let size = try log.size(of: segment) { working += size - free }
        }
        required += min(working, fullSegment)
      } else {
        required += fullSegment
      }
    }
    let available: UInt64
    do {
      available = try root.facts().available
    } catch {
      reporter.log(
        .warning, .repository, "Failed to check free space before committing: \(error.description)")
      return
    }
    reporter.log(
      .debug, .repository, "check_free_space: required bytes \(required), free bytes \(available)")
    guard available < UInt64(clamping: required) else { return }
    if options.isNew, transactionID == nil {
      reporter.log(.error, .repository, "Not enough free space to initialize repository at this location.")
      try removeAll()
    } else {
      try abandonTransaction()
    }
    throw .insufficientFreeSpace(required: UInt64(clamping: required), available: available)
  }
}

extension Hints {
  /// Accounts for a COMMIT, which is of no use once there is a later one.
  mutating func noteCommit(in segment: UInt32) {
    segments[segment, default: 0] += 0
    compact[segment, default: 0] += SegmentFormat.headerSize
  }
}
