import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import Testing

@testable import SegmentRepository

/// What compaction keeps and what it drops, and the room that a commit asks for.
@Suite struct EngineCompactionTests {
  @Test func `only segments with more of no use than the threshold are compacted`() throws {
    // Of 8 + 2 * 141 bytes one object of 141 is of no use.
    for (threshold, remains) in [(0.48, false), (Double(141) / 290, true), (0.5, true)] {
      var bed = try EngineBed(segmentSize: 10_000)
      let session = try bed.session()
      for number in 1...2 { try session.put(number, String(repeating: "x", count: 100)) }
      try session.commit(compact: false)
      try session.delete(numbered(1))
      try session.commit(compact: true, threshold: threshold)
      #expect(RawRepository(bed.disk).segments.contains(0) == remains, "threshold \(threshold)")
      #expect(try session.everything() == [numbered(2): String(repeating: "x", count: 100)])
      try session.close()
    }
  }

  @Test func `a deletion that a later object hides is dropped in the end`() throws {
    var bed = try EngineBed(segmentSize: 10_000)
    let session = try bed.session()
    try session.put(1, "first")
    try session.delete(numbered(1))
    try session.put(1, "second")
    try session.commit(compact: false)
    try session.delete(numbered(1))
    try session.put(2, "stays")
    try session.commit(compact: true, threshold: 0)
    // Newer than the index on the disk: it has to stay once.
    #expect(RawRepository(bed.disk).entries.contains { $0.tag == 1 })
    for number in 3...4 {
      try session.put(number, "")
      try session.commit(compact: true, threshold: 0)
    }
    let raw = RawRepository(bed.disk)
    #expect(!raw.entries.contains { $0.tag == 1 })
    let hints = try Hints(parsing: bed.disk.contents("hints.\(raw.committed ?? -1)") ?? [])
    #expect(hints.shadowIndex.isEmpty)
    try session.close()
  }

  @Test func `a compaction of nothing adds no segment, and one names what it has freed`() throws {
    var bed = try EngineBed(segmentSize: 10_000)
    let session = try bed.session()
    try session.put(1, String(repeating: "x", count: 959))
    try session.commit(compact: true, threshold: 0.6)
    #expect(RawRepository(bed.disk).segments == [0, 1])
    try session.delete(numbered(1))
    bed.notes.clear()
    try session.commit(compact: true, threshold: 0.1)
    #expect(bed.notes.lines(.info) == ["info compaction freed about 1.00 kB repository space."])
    try session.close()
  }

  @Test func `a commit asks for the room that the original asks for`() throws {
    var bed = try EngineBed()
    let session = try bed.session()
    try session.put(1, "x")
    bed.disk.options.capacity = 100_000
    let error = failure { () throws(ServeError) in try session.commit(compact: true) }
    bed.disk.options.capacity = .max
    guard case .insufficientFreeSpace(let required, _) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    // Four times the smallest index, 10 for the one segment, and 4096.
    #expect(required == 4 * (18 + 40 * 1031) + 10 + 4096)
    #expect(!bed.disk.paths.contains("data/0/0"))
    #expect(try session.everything() == [:])
    try session.put(2, "y")
    try session.commit(compact: true)
    #expect(try session.everything() == [numbered(2): "y"])
    try session.close()
  }

  @Test func `a new repository goes for want of room only before its first commit`() throws {
    var bed = try EngineBed()
    let session = try bed.session { $0.isNew = true }
    try session.put(1, "first")
    try session.commit(compact: true)
    try session.put(2, "second")
    bed.disk.options.capacity = 100_000
    #expect(failure { () throws(ServeError) in try session.commit(compact: true) } != nil)
    bed.disk.options.capacity = .max
    #expect(try session.everything() == [numbered(1): "first"])
    try session.close()
    var other = try EngineBed()
    let new = try other.session { $0.isNew = true }
    try new.put(1, "first")
    other.disk.options.capacity = 100_000
    #expect(failure { () throws(ServeError) in try new.commit(compact: true) } != nil)
    #expect(!other.disk.paths.contains("config"))
  }

  @Test func `a repository that only grows keeps everything and notes its transactions`() throws {
    var bed = try EngineBed(appendOnly: true)
    let session = try bed.session()
    try session.put(1, "one")
    try session.commit(compact: true, threshold: 0)
    try session.put(1, "two")
    try session.delete(numbered(1))
    try session.commit(compact: true, threshold: 0)
    #expect(RawRepository(bed.disk).segments == [0, 1, 2, 3])
    let lines = String(decoding: bed.disk.contents("transactions") ?? [], as: UTF8.self).split(
      separator: "\n")
    #expect(lines.count == 2)
    #expect(lines.first?.hasPrefix("transaction 1, UTC time ") == true)
    #expect(lines.last?.hasPrefix("transaction 3, UTC time ") == true)
    #expect(
      failure { () throws(ServeError) in try session.destroy() }
        == .argumentValue("/repo is in append-only mode"))
    #expect(try session.everything() == [:])
    try session.close()
    #expect(try bed.check())
  }
}
