import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import TestKit
import Testing

@testable import SegmentRepository

/// Repositories whose index, hints or digests are damaged or not those of the last commit.
@Suite struct EngineRecoveryTests {
  /// How a file is hurt; nil: removed.
  struct Harm: Sendable, CustomStringConvertible {
    let description: String
    let change: @Sendable ([UInt8]) -> [UInt8]?
    var makesDirectory = false
  }

  static let kinds = ["index", "hints", "integrity"]

  static var harms: [Harm] {
    var harms = [
      Harm(description: "removed", change: { _ in nil }),
      Harm(description: "replaced by a directory", change: { _ in nil }, makesDirectory: true),
      Harm(description: "longer by a byte", change: { $0 + [0] }),
      Harm(description: "zeros", change: { [UInt8](repeating: 0, count: $0.count) }),
      Harm(description: "garbage", change: { SeededGenerator.garbage($0.count) }),
    ]
    for length in [0, 1, 8, 17, 18, 19, 57, 58, 100] {
      harms.append(Harm(description: "cut to \(length)", change: { Array($0.prefix(length)) }))
    }
    harms.append(Harm(description: "shorter by a byte", change: { $0.dropLast() }))
    for part in 0..<12 {
      harms.append(
        Harm(
          description: "a bit flipped in part \(part)",
          change: { bytes in
            var bytes = bytes
            bytes[bytes.count * part / 12 + part % 3] ^= 1 << UInt8(part % 8)
            return bytes
          }))
    }
    return harms
  }

  private static func harmed(_ kind: String, _ harm: Harm) throws -> (EngineBed, [ObjectID: String]) {
    let (bed, contents) = try EngineBed.populated()
    let name = try #require(bed.auxiliary(kind))
    let changed = harm.change(try #require(bed.disk.contents(name)))
    try bed.disk.root().remove(name)
    if let changed { try bed.disk.install(changed, at: name) }
    if harm.makesDirectory {
      try bed.disk.root().makeDirectory(name)
      try bed.disk.root().sync()
    }
    return (bed, contents)
  }

  @Test(arguments: kinds, harms) func `a writer recovers from it`(kind: String, harm: Harm) throws {
    var (bed, contents) = try Self.harmed(kind, harm)
    let session = try bed.session()
    #expect(try session.everything() == contents)
    try session.put(40, "next")
    try session.delete(numbered(1))
    contents[numbered(40)] = "next"
    contents[numbered(1)] = nil
    #expect(try session.everything() == contents)
    try session.commit(compact: false)
    #expect(try session.everything() == contents)
    try session.put(41, "next")
    contents[numbered(41)] = "next"
    try session.commit(compact: true)
    try session.close()
    if !harm.makesDirectory {
      bed.notes.clear()
      #expect(try bed.contents() == contents)
      #expect(try bed.check())
      #expect(bed.notes.lines() == [])
      #expect(bed.leftovers == [])
      let raw = RawRepository(bed.disk)
      #expect(raw.faults(ofIndex: bed.disk.contents("index.\(raw.committed ?? -1)") ?? []) == [])
    }
    #expect(try bed.contents() == contents)
  }

  @Test(arguments: kinds, harms) func `a writer that does not look first recovers from it`(
    kind: String, harm: Harm
  ) throws {
    var (bed, contents) = try Self.harmed(kind, harm)
    let session = try bed.session()
    try session.put(2, "two")
    contents[numbered(2)] = "two"
    try session.commit(compact: true)
    try session.close()
    #expect(try bed.contents() == contents)
    #expect(try bed.check())
  }

  @Test(arguments: kinds, harms) func `a check recovers from it`(kind: String, harm: Harm) throws {
    var (bed, contents) = try Self.harmed(kind, harm)
    #expect(try bed.check())
    #expect(try bed.contents() == contents)
  }

  @Test(arguments: kinds, harms) func `readers recover from it and write nothing they may not`(
    kind: String, harm: Harm
  ) throws {
    for mode in 0..<3 {
      var (bed, contents) = try Self.harmed(kind, harm)
      let before = bed.files
      let writes = bed.disk.count(.write)
      let session = try bed.session { options in
        switch mode {
        case 0: options.locking = .none
        case 1: (options.locking, options.isReadOnly) = (.shared, true)
        default: options.locking = .shared
        }
      }
      #expect(try session.everything() == contents)
      try session.close()
      if mode < 2 {
        #expect(bed.files == before)
        if mode == 0 { #expect(bed.disk.count(.write) == writes) }
      }
      #expect(bed.leftovers == [])
      contents = [:]
    }
  }

  @Test func `a reader leaves recovery to itself while others read`() throws {
    var (bed, contents) = try Self.harmed("index", Harm(description: "", change: { _ in nil }))
    let before = bed.files
    // Both are alive.
    let identity = LockIdentity(hostID: { "here@1" }, processID: 900, processIsAlive: { _ in true })
    var options = SegmentRepository.Options()
    (options.locking, options.lockWait) = (.shared, .zero)
    let sessions = try (0..<2).map { number in
      try SegmentRepository(
        root: bed.disk.root(), label: "/repo", options: options,
        identity: number == 0
          ? identity : LockIdentity(hostID: { "here@1" }, processID: 901, processIsAlive: { _ in true }),
        reporter: bed.notes, cancellation: Cancellation())
    }
    for session in sessions { #expect(try session.everything() == contents) }
    #expect(bed.files == before)
    for session in sessions { try session.close() }
    #expect(bed.leftovers == [])
    contents = try bed.contents()
  }

  @Test func `an index of a later transaction than the log's is not relied on`() throws {
    var (bed, contents) = try EngineBed.populated()
    for kind in Self.kinds {
      let name = try #require(bed.auxiliary(kind))
      try bed.disk.root().rename(name, to: "\(kind).100", in: bed.disk.root())
    }
    #expect(try bed.check())
    #expect(try bed.contents() == contents)
    #expect(bed.auxiliary("index") == "index.11")
    contents = [:]
  }

  @Test func `an older index and its hints are brought up to date by what was committed since`() throws {
    for change in 0..<4 {
      var bed = try EngineBed()
      var contents: [ObjectID: String] = [:]
      var old: [String: [UInt8]] = [:]
      let session = try bed.session()
      for round in 0..<6 {
        for number in round..<round + 4 {
          try session.put(number, "object \(number) in round \(round)")
        }
        if round > 1 { try session.delete(numbered(round - 1)) }
        try session.commit(compact: change > 1)
        // A compaction relies on the index of the commit before it, and not on any older one.
        if round == (change > 1 ? 4 : 2) {
          for name in bed.disk.paths where SegmentRepository.isAuxiliary(name) {
            old[name] = bed.disk.contents(name)
          }
        }
      }
      contents = try session.everything()
      try session.close()
      for name in bed.disk.paths where SegmentRepository.isAuxiliary(name) {
        try bed.disk.root().remove(name)
      }
      for (name, bytes) in old { try bed.disk.install(bytes, at: name) }
      if change.isMultiple(of: 2) == false, let name = bed.auxiliary("hints") {
        try bed.disk.root().remove(name)
      }
      #expect(try bed.contents() == contents)
      #expect(try bed.check())
      let raw = RawRepository(bed.disk)
      #expect(raw.faults(ofIndex: bed.disk.contents("index.\(raw.committed ?? -1)") ?? []) == [])
      let last = try bed.session()
      try last.put(1, "again")
      try last.commit(compact: true)
      contents[numbered(1)] = "again"
      #expect(try last.everything() == contents)
      try last.close()
      #expect(try bed.check())
    }
  }

  /// Values by the rules of the original's `_update_index`, counted by hand.
  @Test func `a replay accounts as the original does`() throws {
    var bed = try EngineBed(segmentSize: 10_000)
    let session = try bed.session()
    try session.put(1, "12345")
    try session.put(2, "123456")
    try session.commit(compact: false)
    try session.put(1, "123")
    try session.delete(numbered(2))
    try session.commit(compact: false)
    try session.close()
    for name in bed.disk.paths where SegmentRepository.isAuxiliary(name) { try bed.disk.root().remove(name) }
    _ = try bed.contents()
    let hints = try Hints(parsing: bed.disk.contents("hints.3") ?? [])
    #expect(hints.segments == [0: 0, 1: 0, 2: 1, 3: 0])
    // Of the two objects the DELETEs found; the first was put again behind its own, so that this PUT supersedes nothing.
    #expect(hints.compact == [0: 46 + 47, 1: 17, 3: 17])
    #expect(hints.storageQuotaUse == 46 + 47 + 44)
    #expect(hints.shadowIndex == [numbered(1): [0], numbered(2): [0]])
  }

  @Test func `hints of Borg 1.0 are upgraded by the first transaction`() throws {
    var (bed, contents) = try EngineBed.populated()
    let hints = try Hints(parsing: bed.disk.contents("hints.11") ?? [])
    var writer = MessagePackWriter(reserving: 100)
    writer.map(count: 3)
    writer.rawString("version")
    writer.int(1)
    writer.rawString("segments")
    writer.map(count: hints.segments.count)
    for (segment, count) in hints.segments {
      writer.int(Int64(segment))
      writer.int(Int64(count))
    }
    writer.rawString("compact")
    // Of one of them the file is gone.
    writer.array(count: 4)
    for segment in [0, 1, 3, 77] { writer.int(Int64(segment)) }
    try bed.disk.install(writer.bytes, at: "hints.11")
    try bed.disk.root().remove("integrity.11")
    let session = try bed.session()
    try session.put(40, "next")
    // Entries 2 and 3 of segment 0; all of segment 1, which holds nothing current; three deletions in segment 3.
    let segmentOne = bed.disk.contents("data/0/1")?.count
    let raw = RawRepository(bed.disk)
    #expect(session.hints?.compact[0] == 98)
    #expect(session.hints?.compact[1] == segmentOne)
    #expect(session.hints?.compact[3] == raw.entries.filter { $0.segment == 3 && $0.tag == 1 }.count * 41)
    #expect(session.hints?.compact[77] == nil)
    #expect(session.hints?.storageQuotaUse == 45)
    #expect(session.hints?.shadowIndex == [:])
    contents[numbered(40)] = "next"
    try session.commit(compact: true)
    #expect(try session.everything() == contents)
    try session.close()
    #expect(try bed.check())
  }

  @Test func `hints of an unknown version are read past and never written over`() throws {
    var (bed, contents) = try EngineBed.populated()
    try bed.disk.install([0x81, 0xa7] + Array("version".utf8) + [3], at: "hints.11")
    try bed.disk.root().remove("integrity.11")
    let before = bed.files
    let session = try bed.session()
    #expect(try session.everything() == contents)
    #expect(
      failure { () throws(ServeError) in try session.put(1, "x") }
        == .argumentValue("Unknown hints file version: 3"))
    try session.close()
    #expect(bed.files == before)
    contents = [:]
  }

  @Test func `an unknown digest or version of digests is no reason not to go on`() throws {
    for bytes in [[0x81, 0xa7] + Array("version".utf8) + [9], nil] as [[UInt8]?] {
      var (bed, contents) = try EngineBed.populated()
      if let bytes {
        try bed.disk.install(bytes, at: "integrity.11")
      } else {
        var digests = try IntegrityData(parsing: bed.disk.contents("integrity.11") ?? [])
        digests.index = FileDigest(algorithm: "SHA3", digests: ["final": "00"])
        try bed.disk.install(digests.encode(), at: "integrity.11")
      }
      bed.notes.clear()
      #expect(try bed.contents() == contents)
      #expect(
        bed.notes.lines() == [
          bytes == nil
            ? "warning Cannot verify integrity of index.11: Unknown algorithm 'SHA3'"
            : "warning Unknown integrity data version 9 in integrity.11"
        ])
      contents = [:]
    }
  }
}

extension SeededGenerator {
  static func garbage(_ count: Int) -> [UInt8] {
    var generator = SeededGenerator(seed: 99)
    return generator.bytes(count)
  }
}
