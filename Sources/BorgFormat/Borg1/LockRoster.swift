/// Who holds a lock of a Borg 1 repository.
///
/// Source: borg 1.4.5 `borg/locking.py`, `borg/platform/base.py`.
public struct LockHolder: Hashable, Sendable {
  /// `BORG_HOST_ID`, or the host's name, `@` and a number made from its MAC address.
  public let host: String
  /// The process on that host, not negative.
  public let process: Int
  /// 0 from every Borg.
  public let thread: Int

  /// A holder; neither number is negative.
  public init(host: String, process: Int, thread: Int = 0) {
    self.host = host
    self.process = process
    self.thread = thread
  }

  /// The name of the holder's file in `lock.exclusive`: host, `.`, process, `-`, thread in hex.
  public var fileName: String { "\(host).\(process)-\(String(thread, radix: 16))" }

  /// The holder that a file is named for; `nil` for a name that none has.
  ///
  /// Hosts may hold dots and dashes, so the name is taken apart from its end.
  public init?(fileName: String) {
    let name = fileName.utf8
    guard let dash = name.lastIndex(of: UInt8(ascii: "-")),
      let dot = name[..<dash].lastIndex(of: UInt8(ascii: ".")),
      let process = Self.number(name[name.index(after: dot)..<dash], radix: 10),
      let thread = Self.number(name[name.index(after: dash)...], radix: 16)
    else { return nil }
    self.init(host: String(fileName[..<dot]), process: process, thread: thread)
  }

  /// Digits only: neither a sign nor nothing at all.
  private static func number(_ digits: Substring.UTF8View, radix: Int) -> Int? {
    guard digits.allSatisfy({ Hex.value(of: $0, letters: .anyCase) != nil }) else { return nil }
    return Int(Substring(digits), radix: radix)
  }
}

/// The file `lock.roster`: who holds the repository's lock, alone or together with others.
///
/// JSON, `{"exclusive": [["host", 15952, 0]]}` or the same with `shared`. Source: borg 1.4.5 `borg/locking.py`.
public struct LockRoster: Equatable, Sendable {
  /// At most one in a sound roster.
  public var exclusive: [LockHolder]
  public var shared: [LockHolder]

  /// Whether nobody holds the lock; the file is then removed.
  public var isEmpty: Bool { exclusive.isEmpty && shared.isEmpty }

  /// A roster of these holders.
  public init(exclusive: [LockHolder] = [], shared: [LockHolder] = []) {
    self.exclusive = exclusive
    self.shared = shared
  }

  /// Reads a roster of at most `Limits.lockRoster` bytes; anything that is not one is empty, as in the original: the
  /// file is written in place and may be cut short.
  public init(parsing bytes: [UInt8]) {
    guard let json = try? JSON(parsing: bytes.span, maximumSize: Limits.lockRoster),
      let exclusive = Self.holders(json["exclusive"]), let shared = Self.holders(json["shared"])
    else {
      self.init()
      return
    }
    self.init(exclusive: exclusive, shared: shared)
  }

  private static func holders(_ list: JSON?) -> [LockHolder]? {
    guard let list else { return [] }
    guard case .array(let entries) = list else { return nil }
    var holders: [LockHolder] = []
    for entry in entries {
      guard case .array(let fields) = entry, fields.count == 3, case .string(let host) = fields[0],
        case .int(let process) = fields[1], case .int(let thread) = fields[2], process >= 0, thread >= 0
      else { return nil }
      holders.append(LockHolder(host: host, process: process, thread: thread))
    }
    return holders
  }

  /// The JSON text as Python's `json.dump` writes it; a list without holders is left out.
  public func encode() -> [UInt8] {
    var text: [UInt8] = [UInt8(ascii: "{")]
    for (name, holders) in [("exclusive", exclusive), ("shared", shared)] where !holders.isEmpty {
      if text.count > 1 { text.append(contentsOf: ", ".utf8) }
      JSON.append(quoted: name, to: &text)
      text.append(contentsOf: ": [".utf8)
      for (index, holder) in holders.enumerated() {
        text.append(contentsOf: index == 0 ? "[".utf8 : ", [".utf8)
        JSON.append(quoted: holder.host, to: &text)
        text.append(contentsOf: ", \(holder.process), \(holder.thread)]".utf8)
      }
      text.append(UInt8(ascii: "]"))
    }
    text.append(UInt8(ascii: "}"))
    return text
  }
}
