import BorgFormat
import TestKit
import Testing

struct LockFormatTests {
  @Test(arguments: Recorded.rows(Recorded.lockNames))
  func `a name of a holder's file is taken apart as borg does`(row: [String]) throws {
    let name = try String(recorded: row[0])
    guard row[1] != "malformed" else {
      #expect(LockHolder(fileName: name) == nil)
      return
    }
    let holder = LockHolder(
      host: try String(recorded: row[1]), process: try #require(Int(row[2])),
      thread: try #require(Int(row[3])))
    #expect(LockHolder(fileName: name) == holder)
    #expect(holder.fileName.lowercased() == name.lowercased())
  }

  @Test(arguments: [
    "h.+1-0", "h.1-+0", "h. 1-0", "h.1_0-0", "h.99999999999999999999-0", "h.1-0x1", "h.1e-0", "h.1.-0",
  ])
  func `signs, blanks, letters and numbers that no process has make a malformed name`(name: String) {
    #expect(LockHolder(fileName: name) == nil)
  }

  private func shown(_ holders: [LockHolder]) -> String {
    holders.map { "\($0.host.isEmpty ? "-" : Hex.string(Array($0.host.utf8))):\($0.process):\($0.thread)" }
      .joined(separator: ",")
  }

  @Test(arguments: Recorded.rows(Recorded.rosters))
  func `a roster is read and written as borg does`(row: [String]) throws {
    let roster = LockRoster(parsing: try [UInt8](recorded: row[0]))
    #expect(shown(roster.exclusive) == row[1])
    #expect(shown(roster.shared) == row[2])
    #expect(roster.encode() == (try [UInt8](recorded: row[3])))
    #expect(roster.isEmpty == (row[1].isEmpty && row[2].isEmpty))
  }

  @Test(arguments: [
    "5", "[]", #"{"exclusive": null}"#, #"{"exclusive": [5]}"#, #"{"exclusive": [[1, 1, 0]]}"#,
    #"{"shared": [["h", -1, 0]]}"#, #"{"shared": [["h", 1.5, 0]]}"#, #"{"shared": [["h", 1, 0, 0]]}"#,
  ])
  func `what is no roster is an empty one`(text: String) {
    #expect(LockRoster(parsing: Array(text.utf8)).isEmpty)
  }

  @Test func `a damaged roster is read, whatever is damaged`() {
    let roster = LockRoster(
      exclusive: [LockHolder(host: "a.b-c@1", process: 2)],
      shared: [LockHolder(host: "é", process: 3, thread: 4)])
    #expect(LockRoster(parsing: roster.encode()) == roster)
    for bytes in damaged(roster.encode()) { _ = LockRoster(parsing: bytes) }
  }
}

struct SmallFileFormatTests {
  @Test(arguments: Recorded.rows(Recorded.nonces))
  func `a nonce is read as borg does, with its text`(row: [String]) throws {
    let bytes = try [UInt8](recorded: row[0])
    do {
      let nonce = try NonceText.parse(bytes)
      #expect(String(nonce) == row[1])
      if bytes.count == 16 { #expect(NonceText.encode(nonce) == bytes) }
    } catch let NonceFault.invalid(reason) {
      #expect("Repository has an invalid nonce file: \(reason)" == (try String(recorded: row[2])))
    }
  }

  @Test func `a damaged nonce is read or refused, whatever is damaged`() {
    for bytes in damaged(NonceText.encode(0x0123_4567_89AB_CDEF)) { _ = try? NonceText.parse(bytes) }
  }

  @Test(arguments: Recorded.rows(Recorded.transactions))
  func `a transaction has the line that borg gives it`(row: [String]) throws {
    let time = Timestamp(milliseconds: try #require(Int64(row[1])))
    let line = TransactionLog.line(transaction: try #require(UInt32(row[0])), time: time)
    #expect(line == (try [UInt8](recorded: row[2])))
  }

  @Test(arguments: Recorded.rows(Recorded.readmes))
  func `a readme tells a repository where borg sees one`(row: [String]) throws {
    #expect(SegmentReadme.isRepositoryReadme(try [UInt8](recorded: row[0])) == (row[1] == "1"))
  }

  @Test func `a new readme is the original's`() throws {
    #expect(SegmentReadme.bytes == (try [UInt8](recorded: Recorded.rows(Recorded.readmes)[0][0])))
  }

  @Test(arguments: Recorded.rows(Recorded.rawStrings))
  func `strings of the raw family begin as clients before 1.4 understand them`(row: [String]) throws {
    let count = try #require(Int(row[0]))
    let bytes = [UInt8](repeating: 0, count: count)
    let head = try [UInt8](recorded: row[1])
    var writer = MessagePackWriter()
    writer.rawHeader(count: count)
    #expect(writer.bytes == head)
    writer = MessagePackWriter()
    writer.rawBytes([1] + bytes + [1], 1..<(count + 1))
    #expect(writer.bytes == head + bytes)
    writer = MessagePackWriter()
    writer.rawString(String(decoding: bytes, as: UTF8.self))
    #expect(writer.bytes == head + bytes)
  }
}
