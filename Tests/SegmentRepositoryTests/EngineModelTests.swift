import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import TestKit
import Testing

@testable import SegmentRepository

/// Random sessions with a repository, beside a dictionary that does the same.
@Suite struct EngineModelTests {
  private struct Walk {
    var generator: SeededGenerator
    var bed: EngineBed
    var session: SegmentRepository
    var committed: [ObjectID: String] = [:]
    var current: [ObjectID: String] = [:]
    /// Objects of which numbers are chosen.
    let range: Int
    /// Whether the stored index was lost once, after which the original's accounting is no longer exact.
    var wasRebuilt = false

    init(seed: UInt64, range: Int) throws {
      generator = SeededGenerator(seed: seed)
      self.range = range
      bed = try EngineBed(
        segmentSize: Int.random(in: 60..<1500, using: &generator),
        perDirectory: Int.random(in: 1..<9, using: &generator))
      session = try bed.session()
    }

    mutating func step() throws {
      let number = Int.random(in: 0..<range, using: &generator)
      switch Int.random(in: 0..<24, using: &generator) {
      case 0..<10:
        let text =
          String(repeating: "p", count: Int.random(in: 0..<200, using: &generator)) + "\(generator.next())"
        try session.put(number, text)
        current[numbered(number)] = text
      case 10..<14:
        let isThere = current.removeValue(forKey: numbered(number)) != nil
        let error = failure { () throws(ServeError) in try session.delete(numbered(number)) }
        #expect(error == (isThere ? nil : .objectMissing(numbered(number).hex)))
      case 14..<17: try commit()
      case 17:
        try session.rollback()
        current = committed
      case 18: try reopen()
      case 19: #expect(try session.everything() == current)
      case 20: #expect(try session.count() == current.count)
      case 21:
        if let expected = current[numbered(number)] {
          #expect(try session.text(numbered(number)) == expected)
        } else {
          #expect(
            failure { () throws(ServeError) in _ = try session.locate(numbered(number)) }
              == .objectMissing(numbered(number).hex))
        }
      case 22: try check()
      default: if generator.oneIn(4) { try loseIndex() }
      }
    }

    mutating func commit() throws {
      let thresholds = [0, 0.1, 0.5, 1]
      try session.commit(
        compact: !generator.oneIn(3), threshold: thresholds.randomElement(using: &generator) ?? 0,
        cleanup: generator.oneIn(4))
      committed = current
      try judgeDisk()
    }

    mutating func reopen() throws {
      try session.close()
      #expect(bed.leftovers == [])
      session = try bed.session()
      current = committed
    }

    mutating func check() throws {
      try session.rollback()
      current = committed
      let isWhole = try session.check(SegmentRepository.CheckRequest())
      // Where nothing was ever committed there is nothing to check.
      if RawRepository(bed.disk).committed == nil { bed.notes.clear() } else { #expect(isWhole) }
    }

    mutating func loseIndex() throws {
      try session.rollback()
      current = committed
      try session.close()
      for kind in ["index", "hints"] where generator.oneIn(2) {
        if let name = bed.auxiliary(kind) { try bed.disk.root().remove(name) }
      }
      wasRebuilt = true
      session = try bed.session()
      bed.notes.clear()
    }

    func judgeDisk() throws {
      let raw = RawRepository(bed.disk)
      guard let committed = raw.committed else { return }
      let auxiliary = bed.disk.paths.filter { SegmentRepository.isAuxiliary($0) }
      // A commit of nothing mends nothing.
      if wasRebuilt && auxiliary.count < 3 { return }
      #expect(auxiliary == ["hints.\(committed)", "index.\(committed)", "integrity.\(committed)"])
      #expect(raw.faults(ofIndex: bed.disk.contents("index.\(committed)") ?? []) == [])
      #expect(Set(raw.current.keys) == Set(current.keys))
      let hints = try Hints(parsing: bed.disk.contents("hints.\(committed)") ?? [])
      if !wasRebuilt { #expect(raw.faults(of: hints) == []) }
      for (segment, count) in hints.segments {
        let live = raw.current.values.count { $0.segment == Int(segment) }
        if !wasRebuilt || live > 0 { #expect(live == count, "segment \(segment)") }
      }
      #expect(!bed.disk.paths.contains { $0.hasSuffix(".tmp") })
    }
  }

  @Test(arguments: 0..<60)
  func `random sessions do what a dictionary does, and leave what the original reads`(seed: UInt64) throws {
    var walk = try Walk(seed: seed, range: seed.isMultiple(of: 2) ? 12 : 40)
    for _ in 0..<160 { try walk.step() }
    try walk.session.close()
    #expect(try walk.bed.contents() == walk.committed)
    #expect(try walk.bed.check())
    if !walk.wasRebuilt { #expect(walk.bed.notes.lines() == []) }
    // Without what was derived from the segments nothing else is found.
    for name in walk.bed.disk.paths where SegmentRepository.isAuxiliary(name) {
      try walk.bed.disk.root().remove(name)
    }
    #expect(try walk.bed.contents() == walk.committed)
  }

  @Test func `an index grows, shrinks and keeps its tombstones within the original's rules`() throws {
    var bed = try EngineBed(segmentSize: 100_000)
    let session = try bed.session()
    var generator = SeededGenerator(seed: 1)
    var present: Set<Int> = []
    var buckets: Set<Int> = []
    func judge() throws {
      let raw = RawRepository(bed.disk)
      let bytes = bed.disk.contents("index.\(raw.committed ?? -1)") ?? []
      #expect(raw.faults(ofIndex: bytes) == [])
      let header = try IndexHeader(parsing: bytes.span, fileSize: bytes.count)
      #expect(header.entries == present.count)
      #expect(IndexFormat.bucketCounts.contains(header.buckets))
      #expect(header.entries - 1 <= IndexFormat.growthThreshold(buckets: header.buckets))
      buckets.insert(header.buckets)
    }
    for size in [300, 770, 775, 900, 2000, 4000, 3990, 700, 690, 20, 0, 5] {
      while present.count < size {
        let number = Int.random(in: 1..<100_000, using: &generator)
        try session.put(number, "")
        present.insert(number)
      }
      while present.count > size, let number = present.randomElement(using: &generator) {
        try session.delete(numbered(number))
        present.remove(number)
      }
      try session.commit(compact: size == 2000)
      try judge()
      // A small change of a stored table.
      for _ in 0..<5 {
        if let number = present.randomElement(using: &generator) {
          try session.delete(numbered(number))
          present.remove(number)
        }
        let number = Int.random(in: 1..<100_000, using: &generator)
        try session.put(number, "")
        present.insert(number)
        try session.commit(compact: false)
        try judge()
      }
    }
    #expect(buckets.isSuperset(of: [1031, 2053, 4099]))
    #expect(try Set(session.everything().keys) == Set(present.map(numbered)))
  }

  /// Ids that all begin in one bucket, at the table's end, so that searches go around.
  @Test func `objects whose searches collide and go around the table's end are found`() throws {
    var bed = try EngineBed(segmentSize: 100_000)
    let session = try bed.session()
    var expected: Set<ObjectID> = []
    func colliding(_ number: Int) -> ObjectID {
      ObjectID(UInt64(UInt32(1030).byteSwapped) << 32 | 1, 2, 3, UInt64(number))
    }
    for round in 0..<6 {
      for number in 0..<40 where (number + round) % 3 != 0 {
        try session.put(colliding(number), [1], 0..<1)
        expected.insert(colliding(number))
      }
      for number in 0..<40 where (number + round) % 3 == 0 && expected.contains(colliding(number)) {
        try session.delete(colliding(number))
        expected.remove(colliding(number))
      }
      #expect(try Set(session.everything().keys) == expected)
      try session.commit(compact: round == 3)
      let raw = RawRepository(bed.disk)
      #expect(raw.faults(ofIndex: bed.disk.contents("index.\(raw.committed ?? -1)") ?? []) == [])
      #expect(try Set(session.everything().keys) == expected)
    }
  }

  @Test func `pages of a list go on behind their markers while objects come and go`() throws {
    var (bed, contents) = try EngineBed.populated()
    let session = try bed.session()
    try session.delete(numbered(4))
    try session.put(20, "new")
    contents[numbered(4)] = nil
    contents[numbered(20)] = "new"
    #expect(try session.everything() == contents)
    #expect(try session.list(limit: 0, after: nil) == [])
    let all = try session.list(limit: nil, after: nil)
    for (number, marker) in all.enumerated() {
      #expect(try session.list(limit: 2, after: marker) == Array(all.dropFirst(number + 1).prefix(2)))
    }
    #expect(
      failure { () throws(ServeError) in _ = try session.list(limit: 1, after: numbered(4)) }
        == .markerUnknown("marker not found"))
    #expect(
      failure { () throws(ServeError) in _ = try session.list(limit: 1, after: numbered(99)) }
        == .markerUnknown("marker not found"))
    #expect(
      failure { () throws(ServeError) in _ = try session.scan(limit: 1, after: numbered(99)) }
        == .markerUnknown(numbered(99).hex))
  }
}
