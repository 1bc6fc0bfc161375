import BorgFormat
import TestKit
import Testing

struct IntegrityTests {
  @Test(arguments: RecordedGeneration.all)
  func `integrity data comes back byte for byte`(generation: RecordedGeneration) throws {
    let bytes = try generation.file("integrity.")
    #expect(try IntegrityData(parsing: bytes).encode() == bytes)
  }

  @Test(arguments: RecordedGeneration.all)
  func `the files of a transaction have the digests that borg keeps of them`(generation: RecordedGeneration)
    throws
  {
    let integrity = try IntegrityData(parsing: try generation.file("integrity."))
    let hints = try generation.file("hints.")
    var digester = FileDigester(fileName: try #require(generation.name("hints.")))
    digester.update(hints, hints.indices)
    digester.part(FileDigest.final, at: hints.count)
    #expect(digester.digest == integrity.hints)

    guard let index = try generation.index() else { return }
    digester = FileDigester(fileName: try #require(generation.name("index.")))
    digester.update(index, 0..<18)
    digester.part(FileDigest.header, at: 18)
    digester.update(index, 18..<index.count)
    digester.part(FileDigest.final, at: index.count)
    #expect(digester.digest == integrity.index)
  }

  @Test(arguments: Recorded.rows(Recorded.digests))
  func `a file that arrives in pieces has the digest that borg keeps of it`(row: [String]) throws {
    let bytes = try [UInt8](recorded: row[1])
    var digester = FileDigester(fileName: row[0])
    for position in bytes.indices {
      if row[0].hasPrefix("index"), position == 18 { digester.part(FileDigest.header, at: 18) }
      digester.update(bytes, position..<(position + 1))
    }
    if row[0].hasPrefix("index"), bytes.count == 18 { digester.part(FileDigest.header, at: 18) }
    digester.part(FileDigest.final, at: bytes.count)
    #expect(digester.digest.encode() == (try [UInt8](recorded: row[2])))
    #expect(FileDigest(parsing: try [UInt8](recorded: row[2])) == digester.digest)
    #expect(digester.matches(digester.digest))
    #expect(digester.hex == digester.digests[FileDigest.final])
  }

  @Test func `another name, content or position is another digest`() {
    func digest(_ name: String, _ bytes: [UInt8], at position: Int) -> FileDigester {
      var digester = FileDigester(fileName: name)
      digester.update(bytes, bytes.indices)
      digester.part(FileDigest.final, at: position)
      return digester
    }
    let known = digest("hints.6", [1, 2], at: 2).digest
    #expect(!digest("hints.7", [1, 2], at: 2).matches(known))
    #expect(!digest("hints.6", [1, 3], at: 2).matches(known))
    #expect(!digest("hints.6", [1, 2], at: 3).matches(known))
    #expect(!digest("hints.6", [1, 2], at: 2).matches(.unreadable))
  }

  @Test(arguments: Recorded.rows(Recorded.digestTexts))
  func `the text of a digest is known, unknown or damaged as borg finds it`(row: [String]) throws {
    let digest = FileDigest(parsing: try [UInt8](recorded: row[0]))
    switch row[1] {
    case "known":
      let digests = digest.digests.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
      #expect(digest.isKnown)
      #expect(digests.joined(separator: ",") == row[2])
    case "unknown": #expect(!digest.isKnown)
    default: #expect(digest == .unreadable)
    }
  }

  @Test func `another version, or none, is told apart`() {
    var writer = MessagePackWriter()
    writer.map(count: 1)
    writer.rawString("version")
    #expect(throws: IntegrityFault.unknownVersion(3)) { try IntegrityData(parsing: writer.bytes + [3]) }
    for bytes in [writer.bytes + [0xc0], [0x80], [0x90], [], Array("garbage".utf8)] {
      #expect {
        try IntegrityData(parsing: bytes)
      } throws: {
        if case .corrupt = $0 as? IntegrityFault { true } else { false }
      }
    }
  }

  @Test func `a file may say nothing of the other two`() throws {
    let empty = IntegrityData(hints: nil, index: nil)
    #expect(try IntegrityData(parsing: empty.encode()) == empty)
  }

  @Test func `damaged integrity data is read or refused, whatever is damaged`() throws {
    for bytes in damaged(try RecordedGeneration.all[0].file("integrity.")) {
      _ = try? IntegrityData(parsing: bytes)
    }
  }
}
