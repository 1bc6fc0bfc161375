import BorgFormat
import Disk
import SystemPackage

// How the state is found on the disk: which transaction was committed last, its index and hints, and both anew from the
// segments where they are missing, damaged or of another transaction.
extension SegmentRepository {
  /// The index of the last commit and of what was written since; found on the disk if it is not known.
  func settledIndex() throws(ServeError) -> SegmentIndex {
    try settle()
    return index ?? SegmentIndex()
  }

  /// Finds the last committed transaction and its index.
  ///
  /// Throws `checkNeeded` if an index is there and no commit at all.
  func settle() throws(ServeError) {
    guard index == nil else { return }
    try requirePresence()
    let names = try names()
    removeLeftovers(among: names)
    let (stored, committed) = (try storedTransaction(among: names), try log.lastCommittedSegment())
    guard let committed else {
      guard stored == nil else {
        throw .checkNeeded("\(label)\" - although likely this is \"beyond repair")
      }
      (index, hints, transactionID) = (SegmentIndex(), Hints(), nil)
      return
    }
    if stored == committed, let index = openIndex(committed) {
      (self.index, transactionID) = (index, committed)
      return
    }
    if let stored, stored > committed {
      reporter.log(
        .warning, .repository,
        "The index is of transaction \(stored), the last commit in the log is \(committed): what was committed in "
          + "between may be lost. Run \"borg check\".")
    }
    let base = stored.flatMap { $0 < committed ? $0 : nil }
    try replay(from: base, to: committed)
    // The stored one takes no memory for its objects.
    if try storeReplayed(committed, after: base), let stored = openIndex(committed) {
      (index, hints) = (stored, nil)
    }
  }

  /// The transaction of the newest index that is not empty.
  func storedTransaction() throws(ServeError) -> UInt32? { try storedTransaction(among: names()) }

  /// All names in the repository's directory.
  private func names() throws(ServeError) -> [String] {
    try ServeError.doing("list", "the repository") { () throws(Errno) in try root.entries() }
  }

  private func storedTransaction(among names: [String]) throws(ServeError) -> UInt32? {
    try ServeError.doing("list", "the repository") { () throws(Errno) in
      var newest: UInt32?
      for name in names where name.hasPrefix("index.") {
        guard let number = SegmentLog.number(String(name.dropFirst("index.".count))),
          newest.map({ number > $0 }) ?? true,
          try (root.status(name)?.size ?? 0) > 0
        else { continue }
        newest = number
      }
      return newest
    }
  }

  /// The stored index of a transaction; nil, with a warning, if it cannot be relied on.
  func openIndex(_ transaction: UInt32) -> SegmentIndex? {
    do {
      let digest = try integrity(of: transaction)?.index
      warn(of: digest, "index", transaction)
      return SegmentIndex(
        try IndexFile("index.\(transaction)", in: root, label: label, expecting: digest))
    } catch {
      reporter.log(
        .warning, .repository,
        "Repository index missing or corrupted, trying to recover from: \(Self.reason(error))")
    }
    return nil
  }

  /// What is wrong with a file, in a few words.
  static func reason(_ error: any Error) -> String {
    switch error {
    case let corruption as IndexFile.Corruption: corruption.text
    case ServeError.integrity(let text), HintsFault.corrupt(let text): text
    case ServeError.system(let failure): "[Errno \(failure.code)] \(failure.reason): '\(failure.name)'"
    default: "\(error)"
    }
  }

  private func warn(of digest: FileDigest?, _ kind: String, _ transaction: UInt32) {
    guard let digest, !digest.isKnown else { return }
    reporter.log(
      .warning, .fileIntegrity,
      "Cannot verify integrity of \(label)/\(kind).\(transaction): Unknown algorithm '\(digest.algorithm)'")
  }

  /// What is known of a transaction's files; nil if nothing is. Throws `integrity` if that itself is damaged: then its
  /// files count as damaged too.
  private func integrity(of transaction: UInt32) throws(ServeError) -> IntegrityData? {
    let name = "integrity.\(transaction)"
    guard let bytes = try readSmallFile(name, limit: 64 * 1024) else { return nil }
    do {
      return try IntegrityData(parsing: bytes)
    } catch {
      switch error {
      case .unknownVersion(let version):
        reporter.log(.warning, .repository, "Unknown integrity data version \(version) in \(name)")
        return nil
      case .corrupt(let reason): throw .integrity("\(name): \(reason)")
      }
    }
  }

  /// A file's bytes; nil if there is none. Throws `integrity` for one that is too large to be what it should.
  private func readSmallFile(_ name: String, limit: Int) throws(ServeError) -> [UInt8]? {
    do {
      let file = try root.file(name)
      let size = try file.size()
      guard size <= limit else { throw ServeError.integrity("\(name) has \(size) bytes") }
      return try file.read(at: 0, count: size)
    } catch Errno.noSuchFileOrDirectory {
      return nil
    } catch let error as Errno {
      throw .system(SystemFailure("read", name, error))
    } catch let error as ServeError {
      throw error
    } catch {
      throw .integrity("\(name): \(error)")
    }
  }

  /// The stored hints of a transaction; nil, with a warning, if they cannot be relied on. `index` is that transaction's.
  func loadHints(_ transaction: UInt32, _ index: SegmentIndex) throws(ServeError) -> Hints? {
    let name = "hints.\(transaction)"
    let parsed: Hints.Parsed
    do {
      let digest = try integrity(of: transaction)?.hints
      warn(of: digest, "hints", transaction)
      guard let bytes = try readSmallFile(name, limit: 1 << 30) else {
        throw ServeError.integrity("[Errno 2] No such file or directory: '\(label)/\(name)'")
      }
      var digester = FileDigester(fileName: name)
      digester.update(bytes, bytes.indices)
      digester.part(FileDigest.final, at: bytes.count)
      if let digest, digest.isKnown, !digester.matches(digest) {
        throw ServeError.integrity("File failed integrity check: \(label)/\(name)")
      }
      parsed = try Hints.parse(bytes)
    } catch HintsFault.unknownVersion(let version) {
      throw .argumentValue("Unknown hints file version: \(version)")
    } catch {
      reporter.log(
        .warning, .repository,
        "Repository hints file missing or corrupted, trying to recover: \(Self.reason(error))")
      return nil
    }
    switch parsed {
    case .current(let hints): return hints
    case .versionOne(let segments, let compact):
      reporter.log(.debug, .repository, "Upgrading from v1 \(name)")
      return try upgraded(segments, compact, index)
    }
  }

  /// Hints of Borg 1.0, which only name the segments with something of no use, with how much that is.
  private func upgraded(_ segments: [UInt32: Int], _ compact: [UInt32], _ index: SegmentIndex)
    throws(ServeError) -> Hints
  {
    var hints = Hints()
    hints.segments = segments
    for segment in compact.sorted() {
      guard let size = try log.size(of: segment) else {
        hints.segments[segment] = nil
        continue
      }
      guard hints.segments[segment, default: 0] != 0 else {
        hints.compact[segment] = size
        continue
      }
      var free = 0
      var cursor = try log.cursor(segment, .headers)
      while let entry = try cursor.next() {
        switch entry.tag {
        case .put:
          let here = EntryLocation(segment: segment, offset: UInt32(truncatingIfNeeded: entry.offset))
          if try index.location(of: entry.id) != here { free += entry.size }
        case .delete: free += entry.size
        case .commit: break
        }
      }
      hints.compact[segment] = free
    }
    return hints
  }

  // MARK: Replay

  /// Builds index and hints of a committed transaction in memory, on top of those of an earlier one if they are whole.
  func replay(from earlier: UInt32?, to committed: UInt32) throws(ServeError) {
    var start: UInt32?
    var (index, hints) = (SegmentIndex(), Hints())
    if let earlier, let stored = openIndex(earlier), let known = try loadHints(earlier, stored) {
      (start, index, hints) = (earlier, stored, known)
      hints.forgetShadows(after: earlier)
    }
    reporter.log(
      .warning, .repository, "Replaying segments. Please wait, this can take a while...")
    let segments = try log.segments()
    let due = segments.filter { segment in start.map { segment > $0 } ?? true && segment <= committed }
    let verified = log.verified(due)
    defer { verified.stop() }
    var meter = ProgressMeter(
      total: segments.count, step: 5, messageID: "repository.replay_segments", operation: nextOperation(),
      reporter: reporter, "Replaying segments", digits: 0)
    for (number, segment) in segments.enumerated() {
      meter.show(number)
      try stopIfCancelled()
      guard start.map({ segment > $0 }) ?? true else { continue }
      guard segment <= committed else { break }
      var isEnded = false
      try apply(segment, to: &index, &hints) { () throws(ServeError) in
        guard !isEnded, let block = verified.next() else { return nil }
        if let failure = block.failure { throw failure }
        isEnded = block.isLast
        return block.entries
      }
    }
    meter.finish()
    (self.index, self.hints, transactionID) = (index, hints, committed)
  }

  /// Adds a segment's entries to what is known of those before it; what is between them is not looked at.
  func applyHeaders(of segment: UInt32, to index: inout SegmentIndex, _ hints: inout Hints) throws(ServeError)
  {
    var cursor = try log.cursor(segment, .headers)
    try apply(segment, to: &index, &hints) { () throws(ServeError) in
      var entries: [SegmentEntry] = []
      while entries.count < 4096, let entry = try cursor.next() { entries.append(entry) }
      return entries.isEmpty ? nil : entries
    }
  }

  /// Adds a segment's entries to what is known of those before it. If it throws, both are good for nothing any more.
  ///
  /// `more` gives the next of them, nil behind the last. Source: borg 1.4.5 `src/borg/repository.py`,
  /// `Repository._update_index`.
  func apply(
    _ segment: UInt32, to index: inout SegmentIndex, _ hints: inout Hints,
    _ more: () throws(ServeError) -> [SegmentEntry]?
  ) throws(ServeError) {
    var live = 0
    hints.segments[segment] = 0
    while let entries = try more() {
      try stopIfCancelled()
      for entry in entries { try apply(entry, in: segment, to: &index, &hints, &live) }
    }
    hints.segments[segment, default: 0] += live
    if hints.segments[segment] == 0 { hints.compact[segment] = try log.size(of: segment) ?? 0 }
  }

  /// `live` counts the segment's own objects.
  private func apply(
    _ entry: SegmentEntry, in segment: UInt32, to index: inout SegmentIndex, _ hints: inout Hints,
    _ live: inout Int
  ) throws(ServeError) {
    switch entry.tag {
    case .put:
      let old = try index.location(of: entry.id)
      if let old {
        // The size of the new one stands for that of the old, as in the original.
        hints.compact[old.segment, default: 0] += entry.size
        if old.segment == segment { live -= 1 } else { hints.segments[old.segment, default: 0] -= 1 }
        hints.shadowIndex[entry.id, default: []].append(old.segment)
      }
      index.set(
        entry.id,
        to: EntryLocation(segment: segment, offset: UInt32(truncatingIfNeeded: entry.offset)),
        isNew: old == nil)
      live += 1
      hints.storageQuotaUse += entry.size
    case .delete:
      guard let old = try index.location(of: entry.id) else { return }
      index.remove(entry.id)
      // An older index may name what a compaction has moved since.
      guard try (log.size(of: old.segment) ?? 0) > 0 else { return }
      if old.segment == segment { live -= 1 } else { hints.segments[old.segment, default: 0] -= 1 }
      let size = try? entrySize(at: old, of: entry.id)
      hints.compact[old.segment, default: 0] += size ?? SegmentFormat.keyedHeaderSize
      hints.shadowIndex[entry.id, default: []].append(old.segment)
    case .commit: break
    }
  }

  /// Stores index and hints that a replay has found, if nobody else can be at work here; else they stay in memory, and
  /// the next one finds them again. True if they were stored.
  func storeReplayed(_ committed: UInt32, after earlier: UInt32?) throws(ServeError) -> Bool {
    guard !options.isReadOnly, let lock, let index, let hints else { return false }
    let isUpgraded = !lock.holdsExclusive
    if isUpgraded {
      do {
        try lock.upgrade(wait: .zero)
      } catch .lockTimeout, .lockFailed, .notLocked {
        return false
      }
    }
    defer { if isUpgraded { try? lock.downgrade() } }
    do {
      // The process that has written them may have been killed before it did.
      try log.makeDurable(after: earlier, upTo: committed)
      try storeIndex(index, hints, committed)
    } catch {
      reporter.log(.warning, .repository, "The recovered index cannot be stored: \(Self.reason(error))")
      return false
    }
    return true
  }
}

extension Hints {
  /// Drops what uncommitted segments, removed meanwhile, had to say of superseded objects.
  mutating func forgetShadows(after transaction: UInt32) {
    for (id, segments) in shadowIndex where segments.contains(where: { $0 > transaction }) {
      shadowIndex[id] = segments.filter { $0 <= transaction }
    }
  }
}
