public import BorgFormat
import Disk
import SystemPackage

extension SegmentRepository {
  /// Verifies all segments and the index; true if they are, or have been made, whole.
  ///
  /// Reports what it finds in the original's words, and more than the original where that is silent: objects that are lost
  /// with a segment or a commit. Source: borg 1.4.5 `src/borg/repository.py`, `Repository.check`.
  public func check(_ request: CheckRequest) throws(ServeError) -> Bool {
    if request.repairs {
      try requireWritable("repairing the repository")
      guard !isAppendOnly else { throw .argumentValue("\(label) is in append-only mode") }
    }
    reporter.log(.info, .repository, "Starting repository check")
    guard !isActive else { throw .assertion("check in an open transaction") }
    let isPartial = request.maxDuration.map { $0 > .zero } ?? false
    guard !(request.repairs && isPartial) else { throw .assertion("a partial check cannot repair") }
    // Without a lock, only looking is safe.
    if lock != nil || request.repairs { try requireExclusiveForWriting() }
    removeSegmentLeftovers()
    // What was derived from the disk before is not what is to be checked.
    forget()
    defer { forget() }
    var run = CheckRun(repository: self, request: request, isPartial: isPartial)
    return try run.run()
  }
}

/// One check.
private struct CheckRun {
  let repository: SegmentRepository
  let request: SegmentRepository.CheckRequest
  let isPartial: Bool
  private var hasErrors = false
  /// What is rebuilt from the segments.
  private var index = SegmentIndex()
  private var hints = Hints()
  /// Segments written anew, in which what is left has other places.
  private var recovered: Set<UInt32> = []

  init(repository: SegmentRepository, request: SegmentRepository.CheckRequest, isPartial: Bool) {
    (self.repository, self.request, self.isPartial) = (repository, request, isPartial)
  }

  private var log: SegmentLog { repository.log }

  private func say(_ level: LogLevel, _ text: String) { repository.reporter.log(level, .repository, text) }

  private mutating func report(_ text: String) {
    hasErrors = true
    say(.error, text)
  }

  mutating func run() throws(ServeError) -> Bool {
    try checkDirectory()
    let (transaction, committed) = try findTransaction()
    guard let transaction else {
      report("This repository contains no valid data.")
      return false
    }
    if request.repairs { _ = try log.removeSegments(after: transaction) }
    let lastCommitted = try log.lastCommittedSegment()
    try checkSegments(upTo: transaction)
    if request.repairs, lastCommitted == nil {
      report("Adding commit tag to segment \(transaction)")
      log.continueAfter(transaction)
      hints.noteCommit(in: try log.appendCommit())
    }
    if !isPartial {
      say(.info, "Starting repository index check")
      if let committed, committed.count > 0 { try compare(with: committed) }
      if request.repairs, let last = try log.lastCommittedSegment() {
        try repository.storeIndex(index, hints, last)
      }
    }
    return conclude()
  }

  private func conclude() -> Bool {
    let mode = isPartial ? "partial" : "full"
    if !hasErrors {
      say(.info, "Finished \(mode) repository check, no problems found.")
    } else if request.repairs {
      say(.info, "Finished \(mode) repository check, errors found and repaired.")
    } else {
      say(.error, "Finished \(mode) repository check, errors found.")
    }
    return !hasErrors || request.repairs
  }

  /// The place of the segments has to be there.
  private mutating func checkDirectory() throws(ServeError) {
    let status = try ServeError.doing("look at", "data") { () throws(Errno) in
      try repository.root.status("data")
    }
    guard status == nil else { return }
    report("The directory of the segments, data, is missing.")
    guard request.repairs else { return }
    try ServeError.doing("create", "data") { () throws(Errno) in
      try repository.root.makeDirectory("data")
      try repository.root.sync()
    }
  }

  /// Which transaction is to be checked, and what its index says, if that can be known.
  private mutating func findTransaction() throws(ServeError) -> (UInt32?, SegmentIndex?) {
    let stored = try repository.storedTransaction()
    let lastCommitted = try log.lastCommittedSegment()
    // An index without its commit: whatever it names and the log has not, is lost.
    var orphan: SegmentIndex?
    if let stored, lastCommitted.map({ stored > $0 }) ?? true {
      orphan = repository.openIndex(stored)
      if lastCommitted == nil {
        report("No committed segment found, although there is an index of transaction \(stored).")
      }
    }
    do throws(ServeError) {
      try repository.settle()
      if let transaction = repository.transactionID { return (transaction, orphan ?? repository.index) }
    } catch .cancelled {
      throw .cancelled
    } catch {
      say(.debug, "Failed to read committed index (\(error))")
    }
    if let known = lastCommitted ?? stored { return (known, orphan) }
    return (try log.latestSegment(), orphan)
  }

  // MARK: Segments

  private mutating func checkSegments(upTo transaction: UInt32) throws(ServeError) {
    let segments = try log.segments()
    var lastChecked: UInt32?
    if isPartial {
      lastChecked = repository.config.lastSegmentChecked.flatMap { UInt32(exactly: $0) }
      say(.info, "skipping to segments >= \(lastChecked.map { Int($0) + 1 } ?? 0)")
    } else {
      try note(lastChecked: nil)
    }
    let due = segments.filter { segment in
      lastChecked.map { segment > $0 } ?? true && segment <= transaction
    }
    let verified = log.verified(due)
    defer { verified.stop() }
    let clock = ContinuousClock()
    let start = clock.now
    var meter = ProgressMeter(
      total: segments.count, step: 0.1, messageID: "repository.check",
      operation: repository.nextOperation(), reporter: repository.reporter, "Checking segments", digits: 1)
    defer { meter.finish() }
    for (number, segment) in segments.enumerated() {
      try repository.stopIfCancelled()
      meter.show(number)
      if let lastChecked, segment <= lastChecked { continue }
      guard segment <= transaction else { continue }
      try check(segment, verified)
      if let longest = request.maxDuration, isPartial, clock.now - start > longest {
        say(.info, "finished partial segment check, last segment checked is \(segment)")
        return try note(lastChecked: segment)
      }
    }
    say(.info, "finished segment check at segment \(segments.last.map { Int($0) } ?? -1)")
    try note(lastChecked: nil)
  }

  /// Keeps in the config how far a partial check has come; nothing is written if nothing changes.
  private func note(lastChecked: UInt32?) throws(ServeError) {
    let value = lastChecked.map { Int($0) }
    guard repository.config.lastSegmentChecked != value, request.notesProgress, !repository.options.isReadOnly
    else {
      return
    }
    // Clients store keys without the lock that a check holds.
    var changed = try repository.configFile.load()
    changed.lastSegmentChecked = value
    try repository.saveConfig(changed)
  }

  private mutating func check(_ segment: UInt32, _ verified: VerifiedSegments) throws(ServeError) {
    say(.debug, "checking segment file \(log.name(of: segment))...")
    var (isWhole, entries) = try verify(segment, verified)
    if !isWhole, request.repairs {
      say(.info, "attempting to recover \(repository.label)/\(log.name(of: segment))")
      try log.recover(segment)
      recovered.insert(segment)
      let again = log.verified([segment])
      defer { again.stop() }
      (isWhole, entries) = try verify(segment, again)
    }
    // A damaged one counts as empty, as a repair would leave no less of it.
    guard !isPartial else { return }
    if !isWhole {
      hints.segments[segment] = 0
      hints.compact[segment] = try log.size(of: segment) ?? 0
    } else if entries != nil {
      try repository.apply(segment, to: &index, &hints) { () throws(ServeError) in
        defer { entries = nil }
        return entries
      }
    } else {
      try repository.applyHeaders(of: segment, to: &index, &hints)
    }
  }

  /// Reads the whole segment, the next one of `verified`; false, with a report, if it is damaged. Its entries are kept if
  /// they are not too many: else they are read once more.
  private mutating func verify(_ segment: UInt32, _ verified: VerifiedSegments) throws(ServeError)
    -> (isWhole: Bool, entries: [SegmentEntry]?)
  {
    var entries: [SegmentEntry]? = isPartial ? nil : []
    while let block = verified.next() {
      try repository.stopIfCancelled()
      if let failure = block.failure {
        try report(failure, of: segment)
        return (false, nil)
      }
      entries?.append(contentsOf: block.entries)
      if (entries?.count ?? 0) > Self.mostKept { entries = nil }
      if block.isLast { break }
    }
    return (true, entries)
  }

  /// Entries of one segment that are kept in memory until the whole of it is known to be good: some 10 MB.
  private static let mostKept = 1 << 18

  private mutating func report(_ failure: ServeError, of segment: UInt32) throws(ServeError) {
    switch failure {
    case .integrity(let text): report("Data integrity error: \(text)")
    case .system(let failure) where !request.repairs:
      report("segment \(segment) cannot be read: \(failure.reason)")
    default: throw failure
    }
  }

  // MARK: Index

  private mutating func compare(with committed: SegmentIndex) throws(ServeError) {
    if committed.count != index.count {
      report("Index object count mismatch.")
      report("committed index: \(committed.count) objects")
      report("rebuilt index:   \(index.count) objects")
    } else if !request.repairs {
      say(.info, "Index object count match.")
    }
    guard try differs(from: committed) else { return }
    var failure: ServeError?
    var lines: [String] = []
    var more = 0
    let rebuilt = index
    func compare(_ id: ObjectID, _ new: EntryLocation?, _ old: EntryLocation?) {
      guard new != old else { return }
      if let new, let old, new.segment == old.segment, recovered.contains(new.segment) { return }
      guard lines.count < Self.mostLines else {
        more += 1
        return
      }
      lines.append(
        "ID: \(id.hex) rebuilt index: \(Self.padded(new)) committed index: \(Self.padded(old))")
    }
    try rebuilt.forEach { id, location in
      do throws(ServeError) { compare(id, location, try committed.location(of: id)) } catch {
        failure = error
      }
      return failure == nil
    }
    try committed.forEach { id, location in
      do throws(ServeError) {
        if try rebuilt.location(of: id) == nil { compare(id, nil, location) }
      } catch { failure = error }
      return failure == nil
    }
    if let failure { throw failure }
    for line in lines {
      try repository.stopIfCancelled()
      report(line)
    }
    if more > 0 { report("... and \(more) objects more.") }
  }

  /// Objects that are named one by one when they are not where the index has them.
  private static let mostLines = 100_000

  /// Whether anything differs, found without a look-up on disk for each object.
  private func differs(from committed: SegmentIndex) throws(ServeError) -> Bool {
    guard committed.count == index.count else { return true }
    var failure: ServeError?
    var isSame = true
    try committed.forEach { id, location in
      do throws(ServeError) { isSame = try index.location(of: id) == location } catch { failure = error }
      return isSame && failure == nil
    }
    if let failure { throw failure }
    return !isSame
  }

  /// A place in Python's words, in at least 16 characters.
  private static func padded(_ location: EntryLocation?) -> String {
    let text = location.map { "(\($0.segment), \($0.offset))" } ?? "<not found>"
    return text + String(repeating: " ", count: max(0, 16 - text.utf8.count))
  }
}
