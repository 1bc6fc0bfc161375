import BorgFormat
import Disk

extension SegmentRepository {
  /// Moves what is current out of segments that are mostly of no use, and removes those.
  ///
  /// Called behind a durable commit. Returns the segment of the last commit that it wrote, or nil if it did nothing: the
  /// index is then still that commit's. A damaged segment is left as it is, with a warning: its transaction is safe, and
  /// what cannot be read of it is a check's to say. Source: borg 1.4.5 `src/borg/repository.py`,
  /// `Repository.compact_segments`.
  func compact(threshold: Double) throws(ServeError) -> UInt32? {
    guard let hints, !hints.compact.isEmpty else { return nil }
    var compaction = Compaction(repository: self, settled: try storedTransaction())
    let useBefore = hints.storageQuotaUse
    var meter = ProgressMeter(
      total: hints.compact.count, step: 1, messageID: "repository.compact_segments",
      operation: nextOperation(),
      reporter: reporter, "Compacting segments", digits: 0)
    reporter.log(
      .debug, .repository, "Compaction started (threshold is \(Int(min(max(threshold, 0), 1) * 100))%).")
    for (segment, free) in hints.compact.sorted(by: { $0.key < $1.key }) {
      // The commit is durable, so whoever ended the session has lost nothing if the rest waits.
      guard !cancellation.isCancelled else { break }
      try compaction.consider(segment, free, threshold)
      meter.show()
    }
    meter.finish()
    guard let last = try compaction.finish() else { return nil }
    try log.removeEmptyDirectories()
    let freed = useBefore - (self.hints?.storageQuotaUse ?? useBefore)
    reporter.log(
      .info, .repository, "compaction freed about \(FileSize.text(freed)) repository space.")
    return last
  }
}

/// One run of compaction.
private struct Compaction {
  let repository: SegmentRepository
  /// The transaction of the index on the disk, from which a crash would have everything replayed.
  let settled: UInt32?
  /// Segments of which nothing is needed any more, once what was moved is committed.
  private var unused: [(segment: UInt32, dropsDeletions: Bool)] = []
  /// Whether anything was copied, which is current only under a commit behind it.
  private var hasMoved = false

  init(repository: SegmentRepository, settled: UInt32?) {
    (self.repository, self.settled) = (repository, settled)
  }

  private var log: SegmentLog { repository.log }

  mutating func consider(_ segment: UInt32, _ free: Int, _ threshold: Double) throws(ServeError) {
    guard let size = try log.size(of: segment), size > 0 else {
      repository.reporter.log(
        .warning, .repository, "segment \(segment) not found, but listed in compaction data")
      repository.hints?.compact[segment] = nil
      repository.hints?.segments[segment] = nil
      return
    }
    guard Double(free) / Double(size) > threshold else { return }
    let dropsDeletions: Bool
    do {
      dropsDeletions = try move(segment)
    } catch .integrity(let text) {
      repository.reporter.log(
        .warning, .repository,
        "segment \(segment) is damaged and was not compacted: \(text). Run \"borg check\".")
      // Not tried again with every commit. A check that repairs it finds out how much can be freed.
      repository.hints?.compact[segment] = 0
      return
    }
    let count = repository.hints?.segments[segment] ?? 0
    if count != 0 { warnOfCount(count, segment) }
    unused.append((segment, dropsDeletions))
  }

  /// Copies what is needed of a segment behind the log's end; true if deletions went.
  ///
  /// If it throws `integrity`, what was copied is current there, and the segment stays with what it superseded.
  private mutating func move(_ segment: UInt32) throws(ServeError) -> Bool {
    repository.hints?.segments[segment, default: 0] += 0
    // What is gone with the segment, if it goes.
    var superseded: [ObjectID: Int] = [:]
    var supersededBytes = 0
    var forgotten: [(id: ObjectID, shadows: [UInt32])] = []
    var dropsDeletions = false
    var moved: [(id: ObjectID, size: Int)] = []
    do {
      var cursor = try log.cursor(segment, .everything)
      while let entry = try cursor.next() {
        switch entry.tag {
        case .put:
          let here = EntryLocation(segment: segment, offset: UInt32(truncatingIfNeeded: entry.offset))
          guard try repository.index?.location(of: entry.id) == here else {
            superseded[entry.id, default: 0] += 1
            supersededBytes += entry.size
            continue
          }
          try makeRoom(for: entry.id)
          let location = try log.appendPut(entry.id, cursor.bytes, cursor.data(of: entry))
          hasMoved = true
          repository.index?.set(entry.id, to: location, isNew: false)
          repository.hints?.segments[location.segment, default: 0] += 1
          repository.hints?.segments[segment, default: 0] -= 1
          moved.append((entry.id, entry.size))
        case .delete:
          guard try repository.index?.location(of: entry.id) == nil else { continue }
          guard isNeeded(deletionOf: entry.id, in: segment) else {
            dropsDeletions = true
            // All of the object's older entries are gone, or go with this segment: nothing more is known of it.
            if let shadows = repository.hints?.shadowIndex[entry.id],
              shadows.count == superseded[entry.id, default: 0]
            {
              repository.hints?.shadowIndex[entry.id] = nil
              superseded[entry.id] = nil
              forgotten.append((entry.id, shadows))
            }
            continue
          }
          try makeRoom(for: entry.id)
          let target = try log.appendDelete(entry.id)
          hasMoved = true
          repository.hints?.compact[target, default: 0] += SegmentFormat.keyedHeaderSize
          repository.hints?.segments[target, default: 0] += 0
        case .commit: break
        }
      }
    } catch {
      for (id, shadows) in forgotten { repository.hints?.shadowIndex[id] = shadows }
      for (id, size) in moved {
        repository.hints?.shadowIndex[id, default: []].append(segment)
        repository.hints?.storageQuotaUse += size
      }
      throw error
    }
    repository.hints?.storageQuotaUse -= supersededBytes
    for (id, count) in superseded { repository.hints?.forgetShadows(of: id, in: segment, count) }
    return dropsDeletions
  }

  /// Whether a DELETE has to be kept: as long as an older entry of the object may be found in a replay.
  private func isNeeded(deletionOf id: ObjectID, in segment: UInt32) -> Bool {
    guard let settled, segment <= settled, let shadows = repository.hints?.shadowIndex[id] else {
      return true
    }
    return shadows.contains { $0 < segment }
  }

  /// Completes what was moved so far, if the next entry begins a new segment.
  private mutating func makeRoom(for id: ObjectID) throws(ServeError) {
    guard log.needsNewSegment(for: id) else { return }
    try complete(try log.appendIntermediateCommit())
  }

  /// Commits what was moved, unless nothing was; returns that commit's segment.
  mutating func finish() throws(ServeError) -> UInt32? {
    guard !unused.isEmpty || hasMoved else { return nil }
    let last = try log.appendCommit()
    try complete(last)
    try log.syncRemovals()
    return last
  }

  /// What was moved is durable under this commit: the old segments go.
  private mutating func complete(_ commit: UInt32) throws(ServeError) {
    repository.hints?.noteCommit(in: commit)
    for (segment, dropsDeletions) in unused {
      // A power cut must not bring back an object without its deletion.
      if dropsDeletions { try log.syncRemovals() }
      let count = repository.hints?.segments.removeValue(forKey: segment) ?? 0
      if count != 0 { warnOfCount(count, segment) }
      try log.remove(segment)
      repository.hints?.compact[segment] = nil
    }
    unused = []
  }

  private func warnOfCount(_ count: Int, _ segment: UInt32) {
    repository.reporter.log(
      .warning, .repository,
      "Corrupted segment reference count \(count) (expected 0) for segment \(segment) - corrupted index or hints"
    )
  }
}

extension Hints {
  /// So many superseded entries go with their segment. An empty list stays: it says that all older entries are known.
  fileprivate mutating func forgetShadows(of id: ObjectID, in segment: UInt32, _ count: Int) {
    var left = count
    shadowIndex[id]?.removeAll { shadow in
      guard left > 0, shadow == segment else { return false }
      left -= 1
      return true
    }
  }
}
