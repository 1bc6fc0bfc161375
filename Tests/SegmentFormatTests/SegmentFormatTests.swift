import BorgFormat
import Testing

struct SegmentFormatTests {
  static let segments = Recorded.rows(Recorded.segments)

  /// An entry as it was recorded: tag, id, offset, data.
  private func entries(_ column: String) throws -> [(tag: SegmentTag, id: String, offset: Int, data: [UInt8])]
  {
    try column.split(separator: ";").map { entry in
      let parts = entry.split(separator: ",").map { $0 == "-" ? "" : $0 }
      let tag = try #require(UInt8(parts[0]).flatMap(SegmentTag.init))
      return (tag, String(parts[1]), try #require(Int(parts[2])), try [UInt8](recorded: parts[3]))
    }
  }

  @Test(arguments: segments)
  func `entries encode to the bytes of a segment that borg wrote`(row: [String]) throws {
    var file = SegmentFormat.magic
    for entry in try entries(row[3]) {
      #expect(file.count == entry.offset)
      switch entry.tag {
      case .put:
        SegmentEntryHeader.appendPut(
          try ObjectID(recorded: entry.id), entry.data, entry.data.indices, to: &file)
        file += entry.data
      case .delete: SegmentEntryHeader.appendDelete(try ObjectID(recorded: entry.id), to: &file)
      case .commit: file += SegmentFormat.commitEntry
      }
    }
    #expect(file == (try [UInt8](recorded: row[2])))
  }

  @Test(arguments: segments)
  func `headers lead through a segment, and their checksums fit`(row: [String]) throws {
    let file = try [UInt8](recorded: row[2])
    var offset = SegmentFormat.magic.count
    for entry in try entries(row[3]) {
      let header = try #require(SegmentEntryHeader(file, at: offset))
      #expect(offset == entry.offset)
      #expect(header.tag == entry.tag)
      #expect(CRC32.checksum(file, (offset + 4)..<(offset + header.size)) == header.crc)
      offset += header.size
    }
    #expect(offset == file.count)
  }

  @Test func `a part of a buffer is put like a buffer of its own`() {
    let id = ObjectID(1, 2, 3, 4)
    var first: [UInt8] = []
    SegmentEntryHeader.appendPut(id, Array("hello".utf8), 0..<5, to: &first)
    var second: [UInt8] = []
    SegmentEntryHeader.appendPut(id, Array("<hello>".utf8), 1..<6, to: &second)
    #expect(first == second)
    #expect(first.count == SegmentFormat.keyedHeaderSize)
  }

  @Test func `there is no header where fewer than nine bytes are left`() {
    let commit = SegmentFormat.commitEntry
    #expect(SegmentEntryHeader(commit, at: 0)?.tag == .commit)
    #expect(SegmentEntryHeader(commit, at: 0)?.size == 9)
    for offset in [1, 9, 10, -1, .max, .min] { #expect(SegmentEntryHeader(commit, at: offset) == nil) }
    #expect(SegmentEntryHeader(Array(commit.prefix(8)), at: 0) == nil)
  }

  @Test func `tags above commit have a number and no meaning`() throws {
    let header = try #require(SegmentEntryHeader([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 3], at: 0))
    #expect(header.tag == nil)
    #expect(header.rawTag == 3)
    #expect(header.size == 0xffff_ffff)
  }

  @Test(arguments: Recorded.rows(Recorded.faults))
  func `a fault has the text of borg's error`(row: [String]) throws {
    let numbers = row[1].split(separator: ",").compactMap { Int($0) }
    let fault: SegmentFault? =
      switch (row[0], numbers.count) {
      case ("invalidMagic", 0): .invalidMagic(segment: 7)
      case ("shortHeader", 2): .shortHeader(segment: 7, offset: numbers[0], needed: numbers[1])
      case ("tooBig", 2): .tooBig(segment: 7, offset: numbers[0], size: numbers[1])
      case ("tooSmall", 2): .tooSmall(segment: 7, offset: numbers[0], size: numbers[1])
      case ("shortData", 3):
        .shortData(segment: 7, offset: numbers[0], expected: numbers[1], got: numbers[2])
      case ("shortKey", 2): .shortKey(segment: 7, offset: numbers[0], got: numbers[1])
      case ("checksumMismatch", 1): .checksumMismatch(segment: 7, offset: numbers[0])
      case ("unacceptableTag", 1): .unacceptableTag(segment: 7, offset: numbers[0])
      case ("notWantedID", 1): .notWantedID(segment: 7, offset: numbers[0])
      default: nil
      }
    #expect(fault?.message == (try String(recorded: row[2])))
  }
}
