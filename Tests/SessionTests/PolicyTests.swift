import BorgFormat
import Testing

@testable import Session

/// The whole table: what each mode says to each operation at each place, on what is there and what is not.
struct PolicyTests {
  /// A row for each mode and place; a letter for each operation in the order of `columns`.
  ///
  /// `+` granted, `-` denied, `=` keeps what is whole, `?` answers that there is nothing.
  private static let table: [Permissions: [(Policy.Place, String)]] = [
    .all: Policy.Place.all.map { ($0, "+++++") },
    .noDelete: [
      (.root, "++---"), (.namespace(.archives), "+++--"), (.namespace(.cache), "+++++"),
      (.namespace(.config), "++++-"), (.namespace(.data), "+++=-"), (.namespace(.keys), "++---"),
      (.namespace(.locks), "+++-+"),
    ],
    .writeOnly: [
      (.root, "+----"), (.namespace(.archives), "+-+--"), (.namespace(.cache), "+++++"),
      (.namespace(.config), "++++-"), (.namespace(.data), "+?+=-"), (.namespace(.keys), "++---"),
      (.namespace(.locks), "+++-+"),
    ],
    .readOnly: [
      (.root, "++---"), (.namespace(.archives), "++---"), (.namespace(.cache), "++---"),
      (.namespace(.config), "++---"), (.namespace(.data), "++---"), (.namespace(.keys), "++---"),
      (.namespace(.locks), "+++-+"),
    ],
  ]

  private static let columns: [(operation: Policy.Operation, exists: Bool)] = [
    (.list, true), (.read, true), (.store, false), (.store, true), (.delete, true),
  ]

  private static let decisions: [Character: Policy.Decision] = [
    "+": .granted, "-": .denied, "=": .keepsWhole, "?": .answersMissing,
  ]

  @Test(arguments: Permissions.allCases)
  func `each mode decides as the table says`(mode: Permissions) throws {
    let rows = try #require(Self.table[mode])
    #expect(Set(rows.map(\.0)) == Set(Policy.Place.all))
    for (place, row) in rows {
      #expect(row.count == Self.columns.count)
      for (column, letter) in zip(Self.columns, row) {
        let decision = Policy.decide(mode, column.operation, at: place, exists: column.exists)
        #expect(decision == Self.decisions[letter], "\(mode) \(column) \(place)")
      }
    }
  }

  @Test(arguments: Permissions.allCases)
  func `whether an object is there counts only for storing`(mode: Permissions) {
    for place in Policy.Place.all {
      for operation in Policy.Operation.allCases where operation != .store {
        let decisions = [false, true].map { Policy.decide(mode, operation, at: place, exists: $0) }
        #expect(decisions[0] == decisions[1])
      }
    }
  }

  @Test func `no mode but all lets anybody delete or overwrite what backups are made of`() {
    for mode in Permissions.allCases where mode != .all {
      for namespace in [Namespace.archives, .data, .keys] {
        #expect(Policy.decide(mode, .delete, at: .namespace(namespace)) == .denied)
        #expect(Policy.decide(mode, .store, at: .namespace(namespace), exists: true) != .granted)
      }
      #expect(Policy.decide(mode, .delete, at: .root) == .denied)
    }
  }
}
