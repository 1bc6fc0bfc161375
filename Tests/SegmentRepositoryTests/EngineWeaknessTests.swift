import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import TestKit
import Testing

@testable import SegmentRepository

/// What the original does badly, by the numbers of the reference.
@Suite struct EngineWeaknessTests {
  @Test(arguments: [[], [0xc1], [0x80], [0x81, 0xa1, 0x78, 0x01], Array("garbage".utf8)] as [[UInt8]])
  func `W4: garbage in place of the digests is recovered from`(garbage: [UInt8]) throws {
    var (bed, contents) = try EngineBed.populated()
    let name = try #require(bed.auxiliary("integrity"))
    try bed.disk.install(garbage, at: name)
    #expect(try bed.contents() == contents)
    let session = try bed.session()
    try session.put(40, "written")
    try session.commit(compact: true)
    contents[numbered(40)] = "written"
    #expect(try session.everything() == contents)
    try session.close()
    bed.notes.clear()
    #expect(try bed.check())
    #expect(bed.notes.lines() == [])
  }

  @Test func `W5: a check says so when the commits or all segments are lost`() throws {
    for losesAll in [false, true] {
      var (bed, _) = try EngineBed.populated()
      let raw = RawRepository(bed.disk)
      for segment in raw.segments {
        let isCommit = raw.entries.allSatisfy { $0.segment != segment || $0.tag == 2 }
        guard losesAll || isCommit else { continue }
        try bed.disk.root().remove("data/\(segment / 4)/\(segment)")
      }
      #expect(try !bed.check())
      #expect(try !bed.check())
      #expect(try bed.check(repairs: true))
      #expect(try bed.check())
      let session = try bed.session()
      try session.put(1, "again")
      try session.commit(compact: true)
      try session.close()
      #expect(try bed.check())
      #expect(try bed.contents()[numbered(1)] == "again")
    }
  }

  @Test func `W6: a repair names the objects that are lost with a segment`() throws {
    var (bed, contents) = try EngineBed.populated()
    try bed.disk.root().remove("data/0/0")
    bed.notes.clear()
    #expect(try bed.check(repairs: true))
    let raw = RawRepository(bed.disk)
    let lost = contents.keys.filter { raw.current[$0] == nil }.sorted()
    #expect(!lost.isEmpty)
    for id in lost {
      #expect(
        bed.notes.lines(.error).contains { $0.hasPrefix("error ID: \(id.hex) rebuilt index: <not found>") })
    }
    #expect(bed.notes.lines(.info).last == "info Finished full repository check, errors found and repaired.")
    #expect(try bed.check())
    #expect(try Set(bed.contents().keys) == Set(contents.keys).subtracting(lost))
  }

  @Test func `W7: a repair does without the directory of the segments`() throws {
    var (bed, _) = try EngineBed.populated()
    try bed.disk.root().removeTree("data")
    #expect(try !bed.check())
    #expect(try bed.check(repairs: true))
    #expect(try bed.check())
    #expect(try bed.contents() == [:])
    let session = try bed.session()
    try session.put(1, "again")
    try session.commit(compact: true)
    try session.close()
    #expect(try bed.contents() == [numbered(1): "again"])
  }

  @Test func `W8: an aborted first transaction is no obstacle, and nothing of it comes back`() throws {
    for isRolledBack in [false, true] {
      var bed = try EngineBed()
      var session = try bed.session()
      try session.put(1, "aborted")
      try session.put(0, "aborted")
      if isRolledBack {
        try session.rollback()
      } else {
        try session.close()
        session = try bed.session()
      }
      #expect(try session.everything() == [:])
      try session.put(2, "kept")
      try session.commit(compact: true)
      try session.close()
      for name in bed.disk.paths where SegmentRepository.isAuxiliary(name) {
        try bed.disk.root().remove(name)
      }
      #expect(try bed.contents() == [numbered(2): "kept"])
      #expect(try bed.check())
    }
  }

  @Test func `W8: segments without a commit are left alone where an index says that there was one`() throws {
    var (bed, _) = try EngineBed.populated()
    let raw = RawRepository(bed.disk)
    for entry in raw.entries where entry.tag == 2 {
      try bed.disk.root().remove("data/\(entry.segment / 4)/\(entry.segment)")
    }
    let before = bed.files
    let session = try bed.session()
    let error = failure { () throws(ServeError) in try session.put(1, "x") }
    #expect(error == .checkNeeded("/repo\" - although likely this is \"beyond repair"))
    try session.close()
    #expect(bed.hasFiles(before))
  }

  @Test func `W9: an overwrite that is refused leaves the object as it was`() throws {
    var (bed, contents) = try EngineBed.populated()
    let session = try bed.session()
    let large = [UInt8](repeating: 1, count: Limits.putData + 1)
    let error = failure { () throws(ServeError) in try session.put(numbered(1), large, large.indices) }
    #expect(error == .integrity("More than allowed put data [20971480 > 20971479]"))
    try session.put(9, "nine")
    contents[numbered(9)] = "nine"
    try session.commit(compact: true)
    #expect(try session.everything() == contents)
    try session.close()
    #expect(try bed.check())
  }

  @Test func `W12: what exceeds the quota is not written at all`() throws {
    var bed = try EngineBed(quota: 300)
    let session = try bed.session()
    try session.put(1, "fits")
    try session.commit(compact: true)
    let before = bed.files
    let error = failure { () throws(ServeError) in try session.put(2, String(repeating: "x", count: 300)) }
    #expect(error == .storageQuotaExceeded(quota: 300, use: 45 + 341))
    #expect(failure { () throws(ServeError) in try session.put(3, "small") } == error)
    #expect(failure { () throws(ServeError) in try session.commit(compact: true) } == error)
    #expect(bed.hasFiles(before))
    // The transaction is gone, the repository takes what fits.
    try session.put(3, "small")
    try session.commit(compact: true)
    #expect(try session.everything() == [numbered(1): "fits", numbered(3): "small"])
  }

  @Test func `W12: deleted objects count until a compaction has removed them`() throws {
    var bed = try EngineBed(segmentSize: 100, quota: 1000)
    let session = try bed.session()
    let large = String(repeating: "x", count: 500)
    try session.put(1, large)
    try session.commit(compact: false)
    try session.delete(numbered(1))
    try session.commit(compact: false)
    #expect(failure { () throws(ServeError) in try session.put(2, large) } != nil)
    try session.rollback()
    try session.put(3, "")
    try session.commit(compact: true)
    try session.put(2, large)
    try session.commit(compact: true)
    #expect(try session.everything() == [numbered(2): large, numbered(3): ""])
  }

  @Test func `W14: a check that finds nothing writes nothing`() throws {
    var (bed, _) = try EngineBed.populated()
    let before = bed.files
    #expect(try bed.check())
    #expect(bed.hasFiles(before))
    #expect(bed.disk.calls.filter { $0.names.contains("config") && $0.kind == .create } == [])
  }

  @Test func `W15: a small transaction costs few syncs, and an idle compaction no segment`() throws {
    var (bed, _) = try EngineBed.populated(perDirectory: 100)
    let session = try bed.session()
    _ = try session.count()
    let (syncs, segments) = (bed.disk.count(.sync), RawRepository(bed.disk).segments.count)
    try session.put(40, "new")
    try session.put(41, "new")
    try session.commit(compact: true, threshold: 1)
    // The original: 2 for each of 2 segments, then 5 for index, hints and digests.
    #expect(bed.disk.count(.sync) - syncs <= 9)
    #expect(RawRepository(bed.disk).segments.count - segments == 2)
    // The manifest's overwrite takes the original 4 segments and 8 syncs.
    let before = bed.disk.count(.sync)
    try session.put(42, "new")
    try session.put(0, "manifest")
    try session.commit(compact: false)
    #expect(bed.disk.count(.sync) - before <= 4 + 2 + 5)
  }

  @Test func `W16: reading what is being written costs no sync`() throws {
    var (bed, _) = try EngineBed.populated()
    let session = try bed.session()
    try session.put(40, "fresh")
    let syncs = bed.disk.count(.sync)
    #expect(try session.text(numbered(40)) == "fresh")
    try session.put(40, "fresher")
    #expect(try session.text(numbered(40)) == "fresher")
    #expect(bed.disk.count(.sync) == syncs)
  }

  @Test func `W17: recovery for a reader adds no commit and leaves the lock shared`() throws {
    var (bed, contents) = try EngineBed.populated()
    let segments = RawRepository(bed.disk).segments
    let name = try #require(bed.auxiliary("index"))
    try bed.disk.install(Array("BORG_IDX is broken".utf8), at: name)
    let first = try bed.session { $0.locking = .shared }
    #expect(try first.everything() == contents)
    #expect(RawRepository(bed.disk).segments == segments)
    #expect(first.lock?.holdsExclusive == false)
    #expect(bed.disk.paths.contains { $0.hasPrefix("lock.exclusive") } == false)
    try first.close()
    #expect(bed.leftovers == [])
    // It was mended for all.
    bed.notes.clear()
    #expect(try bed.contents() == contents)
    #expect(bed.notes.lines() == [])
  }

  @Test func `W18: what is no repository is not even locked`() throws {
    let disk = SimulatedDisk()
    try disk.install([1], at: "something")
    let error = failure { () throws(ServeError) in
      _ = try SegmentRepository(
        root: disk.root(), label: "/repo", options: SegmentRepository.Options(),
        identity: LockIdentity(hostID: { "here@1" }, processID: 1, processIsAlive: { _ in true }),
        reporter: EngineNotes(), cancellation: Cancellation())
    }
    #expect(error == .repositoryInvalid("/repo"))
    #expect(!disk.calls.contains { $0.kind == .create || $0.kind == .makeDirectory })
  }

  @Test func `W24: a commit without a transaction only compacts, and a refused open leaves no lock`() throws {
    var (bed, contents) = try EngineBed.populated()
    let before = bed.files
    let session = try bed.session()
    try session.commit(compact: false)
    try session.rollback()
    try session.close()
    let isUnchanged = bed.files == before
    #expect(isUnchanged)
    let compacting = try bed.session()
    try compacting.commit(compact: true)
    #expect(try compacting.everything() == contents)
    try compacting.close()
    #expect(try bed.check())
    #expect(bed.leftovers == [])
    try bed.disk.install(Array("ATTICSEG".utf8), at: "data/249/999")
    #expect(failure { () throws(ServeError) in _ = try bed.session() } == .repositoryAttic("/repo"))
    #expect(bed.leftovers == [])
    try bed.disk.root().remove("data/249/999")
    #expect(try bed.contents() == contents)
    contents = [:]
  }

  /// Each entry of the segment is damaged once, so that all, some and none of what is moved comes before it.
  @Test func `W25: a compaction that meets a damaged segment loses nothing, and the commit stands`() throws {
    for target in 0..<6 {
      var bed = try EngineBed(segmentSize: 250)
      let session = try bed.session()
      for number in 1...5 { try session.put(number, "object \(number)") }
      for number in 11...15 { try session.put(number, "object \(number)") }
      try session.commit(compact: false)
      try session.delete(numbered(3))
      try session.delete(numbered(13))
      try session.put(0, "manifest")
      try session.commit(compact: false)
      try session.close()
      let entries = RawRepository(bed.disk).entries.filter { $0.segment == 0 }
      if target < entries.count {
        var bytes = try #require(bed.disk.contents("data/0/0"))
        bytes[entries[target].offset + 42] ^= 1
        try bed.disk.install(bytes, at: "data/0/0")
      }
      let damaged = target < entries.count ? entries[target].id : nil
      bed.notes.clear()
      let last = try bed.session()
      try last.put(20, "committed")
      try last.commit(compact: true)
      for number in [1, 2, 4, 5, 11, 12, 14, 15] where numbered(number) != damaged {
        #expect(try last.text(numbered(number)) == "object \(number)", "damaged entry \(target)")
      }
      #expect(try last.text(numbered(20)) == "committed")
      if target < entries.count, damaged != numbered(3) {
        #expect(bed.notes.lines().contains { $0.contains("segment 0 is damaged and was not compacted") })
      }
      try last.close()
      let raw = RawRepository(bed.disk)
      #expect(raw.faults(ofIndex: bed.disk.contents("index.\(raw.committed ?? -1)") ?? []) == [])
      var hints = try Hints(parsing: bed.disk.contents("hints.\(raw.committed ?? -1)") ?? [])
      if target < entries.count, let free = hints.compact[0] {
        // Nothing is said to be gained from it any more, so that not every commit tries again.
        #expect(free == 0)
        hints.compact[0] = raw.freeBytes(of: 0)
      }
      #expect(raw.faults(of: hints) == [], "damaged entry \(target)")
      #expect(try bed.check() == (target >= entries.count))
      #expect(try bed.check(repairs: true))
      #expect(try bed.check())
      for number in [1, 2, 4, 5, 11, 12, 14, 15] where numbered(number) != damaged {
        #expect(try bed.contents()[numbered(number)] == "object \(number)", "damaged entry \(target)")
      }
    }
  }
}
