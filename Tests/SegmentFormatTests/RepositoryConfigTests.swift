import BorgFormat
import TestKit
import Testing

struct RepositoryConfigTests {
  static let id: [UInt8] = Array(0..<32)

  @Test(arguments: Recorded.rows(Recorded.configs))
  func `a config is taken or refused as borg does`(row: [String]) throws {
    let bytes = try [UInt8](recorded: row[0])
    let config: RepositoryConfig
    do {
      config = try RepositoryConfig(parsing: bytes)
    } catch {
      switch row[1] {
      case "InvalidRepositoryConfig": #expect(error.reason == (try String(recorded: row[2])))
      case "ValueError", "NoOptionError": #expect(error == .invalid(try String(recorded: row[2])))
      case "": Issue.record("refused: \(error)")
      default: #expect(error.reason == nil)
      }
      return
    }
    try #require(row[1].isEmpty, "taken, and not by borg")
    let values = [
      String(config.maxSegmentSize), String(config.segmentsPerDirectory), config.appendOnly ? "1" : "0",
      String(config.storageQuota), String(config.additionalFreeSpace), Hex.string(config.id),
      config.key.map { Hex.string($0) } ?? "-", config.lastSegmentChecked.map { String($0) } ?? "-",
    ]
    #expect(values.joined(separator: ",") == row[2])
    #expect(String(decoding: config.encode(), as: UTF8.self) == (try String(recorded: row[3])))
    #expect(config.version == 1)
  }

  @Test(arguments: Recorded.rows(Recorded.newConfigs))
  func `a new repository has the config that borg gives it`(row: [String]) throws {
    let quota = try #require(Int(row[1]))
    let config = RepositoryConfig(newWithID: Self.id, appendOnly: row[0] == "1", storageQuota: quota)
    let bytes = try [UInt8](recorded: row[2])
    #expect(config.encode() == bytes)
    #expect(try RepositoryConfig(parsing: bytes) == config)
  }

  @Test(arguments: Recorded.rows(Recorded.storedKeys))
  func `a key is stored as borg stores it, or refused where borg loses it`(row: [String]) throws {
    var config = RepositoryConfig(newWithID: Self.id)
    let before = config
    let key = try [UInt8](recorded: row[0])
    let keptByBorg = row[2] != "unreadable" && !key.contains(UInt8(ascii: "#"))
    guard keptByBorg else {
      #expect(throws: ConfigFault.self) { try config.setKey(key) }
      #expect(config == before)
      return
    }
    try config.setKey(key)
    #expect(config.encode() == (try [UInt8](recorded: row[1])))
    let read = try RepositoryConfig(parsing: config.encode())
    #expect(Hex.string(read.key ?? []) == row[2])
  }

  @Test func `a key that is not UTF-8 is refused`() {
    var config = RepositoryConfig(newWithID: Self.id)
    #expect(throws: ConfigFault.self) { try config.setKey([0xff]) }
  }

  @Test func `a key cannot set another option`() {
    var config = RepositoryConfig(newWithID: Self.id)
    for key in ["x\rlast_segment_checked = 5", "x\r[other]\ry = 1", "\rx = 1"] {
      #expect(throws: ConfigFault.self) { try config.setKey(Array(key.utf8)) }
    }
  }

  @Test func `values change at their place, and others stay`() throws {
    var config = try RepositoryConfig(
      parsing: RepositoryConfig(newWithID: Self.id).encode() + Array("[other]\nx = 1\n".utf8))
    config.appendOnly = true
    config.storageQuota = 5
    config.lastSegmentChecked = 17
    let text = String(decoding: config.encode(), as: UTF8.self)
    #expect(text.contains("append_only = 1\nstorage_quota = 5\nadditional_free_space = 0\n"))
    #expect(text.hasSuffix("last_segment_checked = 17\n\n[other]\nx = 1\n\n"))
    #expect(try RepositoryConfig(parsing: config.encode()) == config)
    config.lastSegmentChecked = nil
    #expect(!String(decoding: config.encode(), as: UTF8.self).contains("last"))
  }

  @Test func `sizes beyond an EiB count as one, and stay as they are written`() throws {
    let text = String(decoding: RepositoryConfig(newWithID: Self.id).encode(), as: UTF8.self)
    let changed = Array(
      text.replacing("storage_quota = 0", with: "storage_quota = 99999999999999999999P").utf8)
    let config = try RepositoryConfig(parsing: changed)
    #expect(config.storageQuota == 1 << 60)
    #expect(config.encode() == changed)
  }

  @Test func `no segment fits into a directory for none`() {
    let text = String(decoding: RepositoryConfig(newWithID: Self.id).encode(), as: UTF8.self)
    for count in ["0", "-1"] {
      let changed = text.replacing("= 1000\n", with: "= \(count)\n")
      #expect(throws: ConfigFault.self) { try RepositoryConfig(parsing: Array(changed.utf8)) }
    }
  }

  @Test func `a damaged config is read or refused, whatever is damaged`() {
    for bytes in damaged(RepositoryConfig(newWithID: Self.id).encode()) {
      guard let config = try? RepositoryConfig(parsing: bytes) else { continue }
      #expect(config.id.count == 32)
      #expect(config.segmentsPerDirectory > 0)
    }
  }

  @Test func `more than a MiB is no config`() {
    let bytes = RepositoryConfig(newWithID: Self.id).encode()
    let blank = [UInt8](repeating: UInt8(ascii: "\n"), count: Limits.repositoryConfig - bytes.count)
    #expect(throws: Never.self) { try RepositoryConfig(parsing: bytes + blank) }
    #expect(throws: ConfigFault.self) { try RepositoryConfig(parsing: bytes + blank + blank) }
  }
}
