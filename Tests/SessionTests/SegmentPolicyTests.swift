import BorgFormat
import Testing

@testable import Session

/// The whole table: what each mode, and `--append-only`, says to each operation on a repository of Borg 1.x.
struct SegmentPolicyTests {
  private static let columns: [(String, SegmentOperations)] = [
    ("create", .create), ("destroy", .destroy), ("check", .check), ("partial check", .checkInParts),
    ("repair", .repair), ("list", .list), ("count", .count), ("manifest", .readManifest), ("read", .read),
    ("put", .put), ("delete", .delete), ("commit", .commit), ("compact", .compact), ("rollback", .rollback),
    ("load key", .loadKey), ("first key", .storeFirstKey), ("other key", .replaceKey), ("nonce", .readNonce),
    ("higher nonce", .raiseNonce), ("lower nonce", .lowerNonce), ("stale locks", .breakStaleLocks),
    ("living locks", .breakLivingLocks),
  ]

  /// A letter for each column: `+` admitted, `-` refused.
  private static let table: [(mode: Permissions, appendOnly: Bool, row: String, growsOnly: Bool)] = [
    (.all, false, "++++++++++++++++++++++", false),
    (.all, true, "+-++-+++++++-+++-++-+-", true),
    (.noDelete, false, "--+--+++++++-++--++-+-", true),
    (.noDelete, true, "--+--+++++++-++--++-+-", true),
    (.writeOnly, false, "------++-+++-++--++-+-", true),
    (.writeOnly, true, "------++-+++-++--++-+-", true),
    (.readOnly, false, "--+--++++----++--+--+-", false),
    (.readOnly, true, "--+--++++----++--+--+-", true),
  ]

  @Test(arguments: table.indices)
  func `each mode decides as the table says`(index: Int) {
    let (mode, appendOnly, row, growsOnly) = Self.table[index]
    let policy = SegmentPolicy(mode: mode, appendOnly: appendOnly)
    for ((name, operation), letter) in zip(Self.columns, row) {
      #expect(policy.admits(operation) == (letter == "+"), "\(mode) \(name)")
    }
    #expect(row.count == Self.columns.count)
    #expect(policy.isAppendOnly == growsOnly)
  }

  @Test func `the table has every operation`() {
    #expect(Set(Self.columns.map(\.1)) == Set(SegmentOperations.all))
  }

  @Test(arguments: [
    ("/srv/repo", "/srv/repo"), ("repo", "repo"), ("/./repo", "repo"), ("/~/repo", "/base/repo"),
    ("~/repo", "/base/repo"), ("~", "/base"), ("/~nobody-of-that-name/x", "~nobody-of-that-name/x"),
    ("/a~/x", "/a~/x"),
  ])
  func `a client's path means what it means to the original`(path: String, meaning: String) {
    let expanded = ClientPath.expanded(Array(path.utf8)) { $0 == "BORG_BASE_DIR" ? Array("/base".utf8) : nil }
    #expect(String(decoding: expanded, as: UTF8.self) == meaning)
  }
}
