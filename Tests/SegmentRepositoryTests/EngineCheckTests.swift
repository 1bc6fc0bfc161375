import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import TestKit
import Testing

@testable import SegmentRepository

/// Checks of damaged repositories.
///
/// The expected lines are those of the real borg 1.4.5: its `Repository` class made the repository of
/// `EngineBed.populated` with the same settings, the same damage was done to the files, and what its `check` logged from
/// INFO on was noted down. Where this engine says more, the test says so.
@Suite struct EngineCheckTests {
  /// One kind of damage.
  struct Damage: Sendable, CustomStringConvertible {
    let description: String
    let path: String
    let change: @Sendable ([UInt8]) -> [UInt8]?
    /// What the original says of it, if it does.
    let complaint: String?
    /// Objects that are not found any more.
    let lost: [Int]
    /// Those that a repair does not find.
    let lostForGood: [Int]
  }

  private static func flip(_ offset: Int, _ mask: UInt8 = 1) -> @Sendable ([UInt8]) -> [UInt8]? {
    { bytes in
      var bytes = bytes
      bytes[offset] ^= mask
      return bytes
    }
  }

  private static func cut(_ count: Int) -> @Sendable ([UInt8]) -> [UInt8]? { { Array($0.prefix(count)) } }

  private static func mismatch(_ offset: Int, _ segment: Int = 0) -> String {
    "Segment entry checksum mismatch [segment \(segment), offset \(offset)]"
  }

  // Segment 0 holds objects 1 to 6, of which 1, 4, 5 and 6 are current, at 8, 57, 106, 155, 204 and 253.
  static let damages = [
    Damage(
      description: "a bit in the data of a superseded object", path: "data/0/0", change: flip(60),
      complaint: mismatch(57), lost: [1, 4, 5, 6], lostForGood: []),
    Damage(
      description: "a bit in the data of an object", path: "data/0/0", change: flip(10),
      complaint: mismatch(8), lost: [1, 4, 5, 6], lostForGood: [1]),
    Damage(
      description: "a size that is too large for the file", path: "data/0/0", change: flip(14, 0x80),
      complaint: "Segment entry data short read [segment 0, offset 8]: expected 8388648, got 285 bytes",
      lost: [1, 4, 5, 6], lostForGood: [1]),
    Damage(
      description: "an unknown tag", path: "data/0/0", change: flip(16, 4), complaint: mismatch(8),
      lost: [1, 4, 5, 6], lostForGood: [1]),
    Damage(
      description: "the magic", path: "data/0/0", change: flip(0),
      complaint: "Invalid segment magic [segment 0, offset 0]", lost: [1, 4, 5, 6], lostForGood: []),
    Damage(
      description: "an end in the data", path: "data/0/0", change: cut(100),
      complaint: "Segment entry data short read [segment 0, offset 57]: expected 40, got 34 bytes",
      lost: [1, 4, 5, 6], lostForGood: [4, 5, 6]),
    Damage(
      description: "an end in the header", path: "data/0/0", change: cut(60),
      complaint:
        "Invalid segment entry header [segment 0, offset 57]: unpack requires a buffer of 9 bytes",
      lost: [1, 4, 5, 6], lostForGood: [4, 5, 6]),
    Damage(
      description: "an empty file", path: "data/0/0", change: cut(0),
      complaint: "Invalid segment magic [segment 0, offset 0]", lost: [1, 4, 5, 6],
      lostForGood: [1, 4, 5, 6]),
    Damage(
      description: "a lost file", path: "data/0/0", change: { _ in nil }, complaint: nil,
      lost: [1, 4, 5, 6], lostForGood: [1, 4, 5, 6]),
    Damage(
      description: "a bit in the first commit", path: "data/0/2", change: flip(16),
      complaint: mismatch(8, 2), lost: [], lostForGood: []),
  ]

  private static func damaged(_ damage: Damage) throws -> (EngineBed, [ObjectID: String]) {
    let (bed, contents) = try EngineBed.populated()
    let changed = damage.change(try #require(bed.disk.contents(damage.path)))
    if let changed {
      try bed.disk.install(changed, at: damage.path)
    } else {
      try bed.disk.root().remove(damage.path)
    }
    return (bed, contents)
  }

  private static func comparison(_ lost: [Int], of count: Int) -> [String] {
    lost.isEmpty
      ? ["info Index object count match."]
      : [
        "error Index object count mismatch.", "error committed index: \(count) objects",
        "error rebuilt index:   \(count - lost.count) objects",
      ]
  }

  /// The lines but for those of single objects, whose order is that of a hash table, and the objects of those.
  private static func split(_ lines: [String]) -> (lines: [String], ids: Set<String>) {
    let prefix = "error ID: "
    let named = lines.filter { $0.hasPrefix(prefix) }
    return (
      lines.filter { !$0.hasPrefix(prefix) },
      Set(named.map { String($0.dropFirst(prefix.count).prefix(64)) })
    )
  }

  @Test(arguments: damages) func `a check says what the original says`(damage: Damage) throws {
    var (bed, contents) = try Self.damaged(damage)
    let before = bed.files
    bed.notes.clear()
    #expect(try !bed.check())
    let (lines, ids) = Self.split(bed.notes.lines(.info))
    #expect(
      lines == ["info Starting repository check"]
        + (damage.complaint.map { ["error Data integrity error: \($0)"] } ?? [])
        + ["info finished segment check at segment 11", "info Starting repository index check"]
        + Self.comparison(damage.lost, of: contents.count)
        + ["error Finished full repository check, errors found."])
    #expect(ids == Set(damage.lost.map { numbered($0).hex }))
    #expect(bed.files == before)
    contents = [:]
  }

  /// The original compares nothing when it repairs; this engine does (W6), and so names what is lost for good.
  @Test(arguments: damages) func `a repair says what the original says, and what is lost`(damage: Damage)
    throws
  {
    var (bed, contents) = try Self.damaged(damage)
    bed.notes.clear()
    #expect(try bed.check(repairs: true))
    let (lines, ids) = Self.split(bed.notes.lines(.info))
    #expect(
      lines == ["info Starting repository check"]
        + (damage.complaint.map {
          ["error Data integrity error: \($0)", "info attempting to recover /repo/\(damage.path)"]
        } ?? []) + ["info finished segment check at segment 11", "info Starting repository index check"]
        + Self.comparison(damage.lostForGood, of: contents.count)
        + ["info Finished full repository check, errors found and repaired."])
    #expect(ids == Set(damage.lostForGood.map { numbered($0).hex }))
    for number in damage.lostForGood { contents[numbered(number)] = nil }
    #expect(try bed.contents() == contents)
    #expect(bed.leftovers == [])
    let raw = RawRepository(bed.disk)
    #expect(raw.committed == 11)
    #expect(raw.faults(ofIndex: bed.disk.contents("index.11") ?? []) == [])
    bed.notes.clear()
    #expect(try bed.check())
    #expect(bed.notes.lines() == [])
    let session = try bed.session()
    try session.put(1, "again")
    try session.commit(compact: true)
    contents[numbered(1)] = "again"
    #expect(try session.everything() == contents)
    try session.close()
    #expect(try bed.check())
  }

  @Test func `a check of a whole repository says what the original says`() throws {
    for repairs in [false, true] {
      var (bed, _) = try EngineBed.populated()
      bed.notes.clear()
      #expect(try bed.check(repairs: repairs))
      // The original compares nothing when it repairs.
      #expect(
        bed.notes.lines(.info) == [
          "info Starting repository check", "info finished segment check at segment 11",
          "info Starting repository index check", "info Index object count match.",
          "info Finished full repository check, no problems found.",
        ])
    }
  }

  @Test func `a missing object is named with both places, padded as the original pads them`() throws {
    var (bed, _) = try EngineBed.populated()
    try bed.disk.root().remove("data/0/0")
    bed.notes.clear()
    #expect(try !bed.check())
    #expect(
      bed.notes.lines(.error).contains(
        "error ID: 0404040404040404000000000000000700000000000000070000000000000004 "
          + "rebuilt index: <not found>      committed index: (0, 155)        "))
  }

  /// The original finds no problem then: the index of the lost commit is forgotten before anything is compared.
  @Test func `a lost last commit is an error, and a repair goes back to the one before`() throws {
    for isDamaged in [false, true] {
      var (bed, contents) = try EngineBed.populated()
      let path = "data/2/11"
      if isDamaged {
        var bytes = try #require(bed.disk.contents(path))
        bytes[16] ^= 1
        try bed.disk.install(bytes, at: path)
      } else {
        try bed.disk.root().remove(path)
      }
      bed.notes.clear()
      let copy = bed.files
      #expect(try !bed.check())
      #expect(
        bed.notes.lines(.info).contains("warning Replaying segments. Please wait, this can take a while..."))
      #expect(bed.notes.lines(.error).contains { $0.contains(numbered(7).hex) })
      contents[numbered(7)] = nil
      contents[numbered(8)] = nil
      contents[numbered(0)] = "manifest 2"
      #expect(try bed.check(repairs: true))
      #expect(RawRepository(bed.disk).segments.max() == 6)
      #expect(try bed.contents() == contents)
      #expect(try bed.check())
      _ = copy
    }
  }

  @Test func `a check that may not write changes nothing, and an empty repository has nothing to check`()
    throws
  {
    var (bed, _) = try EngineBed.populated()
    let name = try #require(bed.auxiliary("index"))
    try bed.disk.root().remove(name)
    let before = bed.files
    let session = try bed.session { $0.isReadOnly = true }
    #expect(try session.check(SegmentRepository.CheckRequest()))
    var request = SegmentRepository.CheckRequest()
    request.repairs = true
    #expect(failure { () throws(ServeError) in _ = try session.check(request) } != nil)
    try session.close()
    #expect(bed.files == before)
    var empty = try EngineBed()
    #expect(try !empty.check())
    #expect(empty.notes.lines() == ["error This repository contains no valid data."])
  }

  @Test func `what is refused is refused in the original's words`() throws {
    var bed = try EngineBed(appendOnly: true)
    let session = try bed.session()
    var request = SegmentRepository.CheckRequest()
    request.repairs = true
    #expect(
      failure { () throws(ServeError) in _ = try session.check(request) }
        == .argumentValue("/repo is in append-only mode"))
    try session.put(1, "open")
    if case .assertion = failure(of: { () throws(ServeError) in
      _ = try session.check(SegmentRepository.CheckRequest())
    }) {
    } else {
      Issue.record("a check in an open transaction is not refused")
    }
    try session.close()
    let reader = try bed.session { $0.locking = .shared }
    #expect(
      failure { () throws(ServeError) in _ = try reader.check(SegmentRepository.CheckRequest()) }
        == .assertion("bug in code, exclusive lock should exist here"))
    try reader.close()
    #expect(bed.leftovers == [])
  }

  @Test func `partial checks go on where the last one ended, and keep that in the config`() throws {
    var (bed, _) = try EngineBed.populated()
    var request = SegmentRepository.CheckRequest()
    request.maxDuration = .nanoseconds(1)
    bed.notes.clear()
    var checked: [String] = []
    for _ in 0..<40 {
      let session = try bed.session()
      #expect(try session.check(request))
      try session.close()
      let lines = bed.notes.lines(.info)
      bed.notes.clear()
      checked += lines
      #expect(lines.first == "info Starting repository check")
      #expect(lines.last == "info Finished partial repository check, no problems found.")
      if lines.contains(where: { $0.hasPrefix("info finished segment check") }) { break }
      let config = try RepositoryConfig(parsing: bed.disk.contents("config") ?? [])
      #expect(
        lines.contains(
          "info finished partial segment check, last segment checked is \(config.lastSegmentChecked ?? -1)"))
    }
    #expect(checked.contains("info skipping to segments >= 0"))
    #expect(checked.contains("info skipping to segments >= 1"))
    #expect(!checked.contains("info Starting repository index check"))
    // Damage behind the mark is found by the next one, and a full check forgets the mark.
    let session = try bed.session()
    #expect(try session.check(request))
    try session.close()
    #expect(try RepositoryConfig(parsing: bed.disk.contents("config") ?? []).lastSegmentChecked == 0)
    #expect(try bed.check())
    #expect(try RepositoryConfig(parsing: bed.disk.contents("config") ?? []).lastSegmentChecked == nil)
    request.repairs = true
    let last = try bed.session()
    #expect(failure { () throws(ServeError) in _ = try last.check(request) } != nil)
    try last.close()
  }
}
