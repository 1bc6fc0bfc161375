import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import TestKit
import Testing

@testable import SegmentRepository

/// Segments that are read and verified ahead find what a cursor finds.
@Suite struct VerifiedSegmentsTests {
  /// Who reads: the caller for so many blocks, and then so many threads.
  static let ways = [(alone: 1 << 20, threads: 2), (0, 2), (1, 2), (0, 1), (0, 5), (0, 0)]

  /// What is found in a segment, in words.
  struct Found: Equatable, CustomStringConvertible {
    let segment: UInt32
    var entries: [String] = []
    var failure: ServeError?
    var description: String { "\(segment): \(entries.count) entries, \(String(describing: failure))" }

    mutating func add(_ entry: SegmentEntry) {
      entries.append("\(entry.tag) \(entry.id.hex) at \(entry.offset), \(entry.size) bytes")
    }
  }

  /// Twelve segments, some of many entries and some of entries that are larger than a window.
  private static func repository() throws -> EngineBed {
    var bed = try EngineBed(segmentSize: 3_000_000, perDirectory: 5)
    let session = try bed.session()
    for round in 0..<3 {
      for number in 1..<20_000 where number % 3 == round {
        try session.put(number, "small object \(number)")
      }
      try session.put(30_000 + round, String(repeating: "large", count: 1_000_000))
      try session.put(40_000 + round, String(repeating: "x", count: 300_000))
      try session.commit(compact: false)
      for number in 1..<500 where number % 3 == round { try session.delete(numbered(number)) }
      try session.put(0, "manifest \(round)")
      try session.commit(compact: false)
    }
    try session.close()
    return bed
  }

  private static func names(_ bed: EngineBed) -> [(number: UInt32, name: String)] {
    RawRepository(bed.disk).segments.map { (UInt32($0), "data/\($0 / 5)/\($0)") }
  }

  private static func byCursor(_ bed: EngineBed, _ names: [(number: UInt32, name: String)]) -> [Found] {
    names.map { segment, name in
      var found = Found(segment: segment)
      do throws(ServeError) {
        let file = try ServeError.doing("open", "segment \(segment)") { () throws(Errno) in
          try bed.disk.root().file(name)
        }
        var cursor = try SegmentCursor(file, segment: segment, .everything)
        while let entry = try cursor.next() { found.add(entry) }
      } catch {
        found.failure = error
      }
      return found
    }
  }

  private static func ahead(
    _ bed: EngineBed, _ names: [(number: UInt32, name: String)], _ way: (alone: Int, threads: Int)
  ) -> [Found] {
    let verified = VerifiedSegments(names, in: bed.disk.root(), alone: way.alone, threads: way.threads)
    defer { verified.stop() }
    var all: [Found] = []
    var isOpen = false
    while let block = verified.next() {
      if !isOpen { all.append(Found(segment: block.segment)) }
      guard var found = all.popLast() else { break }
      #expect(found.segment == block.segment)
      for entry in block.entries { found.add(entry) }
      found.failure = block.failure
      all.append(found)
      isOpen = !block.isLast && block.failure == nil
    }
    #expect(verified.next() == nil)
    return all
  }

  @Test(arguments: ways) func `whole segments`(way: (alone: Int, threads: Int)) throws {
    let bed = try Self.repository()
    let names = Self.names(bed)
    let wanted = Self.byCursor(bed, names)
    #expect(wanted.count > 10)
    #expect(wanted.allSatisfy { $0.failure == nil })
    #expect(Self.ahead(bed, names, way) == wanted)
  }

  @Test(arguments: ways) func `damaged segments end where a cursor finds the damage`(
    way: (alone: Int, threads: Int)
  ) throws {
    var generator = SeededGenerator(seed: 7)
    for _ in 0..<3 {
      let bed = try Self.repository()
      let names = Self.names(bed)
      for (_, name) in names {
        guard var bytes = bed.disk.contents(name) else { continue }
        switch Int.random(in: 0..<5, using: &generator) {
        case 0: bytes[Int.random(in: 0..<bytes.count, using: &generator)] ^= 16
        case 1: bytes.removeLast(Int.random(in: 1...bytes.count, using: &generator))
        case 2:
          // Sizes that lead astray.
          for _ in 0..<3 where bytes.count > 100 {
            bytes[12 + 41 * Int.random(in: 0..<bytes.count / 50, using: &generator)] ^= 3
          }
        case 3:
          try bed.disk.root().remove(name)
          continue
        default: continue
        }
        try bed.disk.install(bytes, at: name)
      }
      let wanted = Self.byCursor(bed, names)
      #expect(wanted.contains { $0.failure != nil })
      #expect(Self.ahead(bed, names, way) == wanted)
    }
  }

  @Test(arguments: ways) func `whoever has seen enough stops`(way: (alone: Int, threads: Int)) throws {
    let bed = try Self.repository()
    for count in [0, 1, 3] {
      let verified = VerifiedSegments(
        Self.names(bed), in: bed.disk.root(), alone: way.alone, threads: way.threads)
      for _ in 0..<count { #expect(verified.next() != nil) }
      verified.stop()
    }
  }

  @Test(arguments: ways) func `nothing to read is no segment`(way: (alone: Int, threads: Int)) {
    let verified = VerifiedSegments(
      [], in: SimulatedDisk().root(), alone: way.alone, threads: way.threads)
    #expect(verified.next() == nil)
    verified.stop()
  }
}
