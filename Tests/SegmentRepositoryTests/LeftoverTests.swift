import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import Testing

@testable import SegmentRepository

/// Temporary files of sessions that were killed.
@Suite struct LeftoverTests {
  static let left = ["index.11.tmp", "hints.9.tmp", "integrity.100.tmp"]
  /// Nobody's business.
  static let others = [
    "index.tmp", "hints.x.tmp", "index.1.2.tmp", "notes.tmp", "config-short.tmp", "myconfig-12345678.tmp",
  ]

  private static func littered() throws -> (EngineBed, [ObjectID: String]) {
    let (bed, contents) = try EngineBed.populated()
    for name in left + others { try bed.disk.install([1, 2, 3], at: name) }
    return (bed, contents)
  }

  @Test func `whoever has the exclusive lock removes what was left of an index`() throws {
    var (bed, contents) = try Self.littered()
    #expect(try bed.contents() == contents)
    #expect(bed.leftovers.sorted() == Self.others.sorted())
    contents = [:]
  }

  @Test func `a writer that had a shared lock removes it, too`() throws {
    var (bed, _) = try Self.littered()
    let session = try bed.session { $0.locking = .upgradable }
    try session.put(9, "nine")
    #expect(bed.leftovers.filter(Self.left.contains) == [])
    try session.commit(compact: false)
    try session.close()
  }

  @Test func `nobody else removes anything`() throws {
    for mode in 0..<3 {
      var (bed, contents) = try Self.littered()
      let before = bed.files
      let session = try bed.session { options in
        switch mode {
        case 0: options.locking = .none
        case 1: options.isReadOnly = true
        default: options.locking = .shared
        }
      }
      #expect(try session.everything() == contents)
      try session.close()
      #expect(bed.hasFiles(before))
      contents = [:]
    }
  }

  @Test func `what cannot be removed is no obstacle`() throws {
    var (bed, contents) = try Self.littered()
    let session = try bed.session()
    bed.disk.fail(.unlink, with: .notPermitted)
    #expect(try session.everything() == contents)
    try session.close()
    contents = [:]
  }

  @Test func `a temporary config or nonce is removed once it is old`() throws {
    var options = SimulatedDisk.Options()
    let old = ["config-12345678.tmp", "nonce-abcdefgh.tmp"]
    for name in old { options.modifiedByName[name] = options.modified - 600 }
    let young = ["config-87654321.tmp", "nonce-hgfedcba.tmp"]
    for name in young { options.modifiedByName[name] = options.modified - 599 }
    var bed = try EngineBed(options)
    for name in old + young { try bed.disk.install([1], at: name) }
    _ = try bed.contents()
    #expect(bed.leftovers.sorted() == young)
  }

  @Test func `a check removes what a killed repair has left beside the segments`() throws {
    var (bed, contents) = try EngineBed.populated()
    try bed.disk.install([1], at: "data/0/0.tmp")
    try bed.disk.install([1], at: "data/1/old.tmp")
    try bed.disk.install([1], at: "data/1/5.beforerecover")
    #expect(try bed.check())
    #expect(bed.leftovers == ["data/1/old.tmp"])
    #expect(bed.disk.contents("data/1/5.beforerecover") != nil)
    #expect(try bed.contents() == contents)
    contents = [:]
  }
}
