/// Why bytes are not a lock record.
public enum LockRecordError: Error, Equatable, Sendable {
  /// The text is no JSON, or beyond a limit.
  case json(JSONError)
  /// The text is not an object with all five fields.
  case fieldMissing(LockRecord.Field)
  /// The field has another type, or no usable value.
  case fieldInvalid(LockRecord.Field)
}

/// The content of an object in `locks/`: who holds a lock of what kind, and when that was last said.
///
/// Source: borg 2.0.0b18 `borg/storelocking.py`.
public struct LockRecord: Hashable, Sendable {
  /// The members of the JSON text, in the order in which they are written.
  public enum Field: String, CaseIterable, Sendable {
    case exclusive
    case hostID = "hostid"
    case processID = "processid"
    case threadID = "threadid"
    case time
  }

  /// Whether the holder wants to be alone; else it shares with others like it.
  public var isExclusive: Bool
  /// `BORG_HOST_ID`, or the host's name, `@` and a number made from its MAC address.
  public var hostID: String
  /// The process that holds the lock, on that host.
  public var processID: Int
  /// 0 from every Borg. Another number keeps other Borgs from telling whether the process is alive.
  public var threadID: Int
  /// When the lock was made or last refreshed.
  public var time: Timestamp

  /// A record as a process makes it for itself.
  public init(isExclusive: Bool, hostID: String, processID: Int, threadID: Int = 0, time: Timestamp) {
    self.isExclusive = isExclusive
    self.hostID = hostID
    self.processID = processID
    self.threadID = threadID
    self.time = time
  }

  /// A host id of bytes from an environment: what is not UTF-8 becomes U+FFFD.
  ///
  /// Python keeps such bytes apart, so a stock Borg with the same setting sees another host here; see
  /// `isStale`.
  public static func hostID(decoding bytes: [UInt8]) -> String {
    String(decoding: bytes, as: UTF8.self)
  }

  // MARK: Text

  /// The JSON text, byte for byte as Borg writes it.
  public var encoded: [UInt8] {
    var text: [UInt8] = []
    text.reserveCapacity(128 + hostID.utf8.count)
    for field in Field.allCases {
      text.append(contentsOf: text.isEmpty ? "{".utf8 : ", ".utf8)
      JSON.append(quoted: field.rawValue, to: &text)
      text.append(contentsOf: ": ".utf8)
      switch field {
      case .exclusive: text.append(contentsOf: isExclusive ? "true".utf8 : "false".utf8)
      case .hostID: JSON.append(quoted: hostID, to: &text)
      case .processID: text.append(contentsOf: String(processID).utf8)
      case .threadID: text.append(contentsOf: String(threadID).utf8)
      case .time: JSON.append(quoted: time.iso8601, to: &text)
      }
    }
    text.append(UInt8(ascii: "}"))
    return text
  }

  /// The 16 hex digits that name this record in `locks/`: XXH64, seed 0, of the text.
  public var key: String { XXH64.hex(XXH64.hash(encoded)) }

  /// Reads a record in any member order and spacing; members that are not a `Field` are ignored.
  ///
  /// At most `Limits.lockRecord` bytes and 16 levels. The time may have any form that `Timestamp` reads.
  public init(parsing text: Span<UInt8>) throws(LockRecordError) {
    let object: JSON
    do { object = try JSON(parsing: text) } catch { throw .json(error) }
    func value<T>(_ field: Field, _ convert: (JSON) -> T?) throws(LockRecordError) -> T {
      guard let json = object[field.rawValue] else { throw .fieldMissing(field) }
      guard let value = convert(json) else { throw .fieldInvalid(field) }
      return value
    }
    self.isExclusive = try value(.exclusive) { if case .bool(let bool) = $0 { bool } else { nil } }
    self.hostID = try value(.hostID) { if case .string(let string) = $0 { string } else { nil } }
    self.processID = try value(.processID) { if case .int(let int) = $0 { int } else { nil } }
    self.threadID = try value(.threadID) { if case .int(let int) = $0 { int } else { nil } }
    self.time = try value(.time) {
      if case .string(let string) = $0 { Timestamp(iso8601: string) } else { nil }
    }
  }

  // MARK: Age

  /// Whether whoever sees this lock may delete it.
  ///
  /// It may after `Limits.lockStaleSeconds` without a refresh; sooner where this very host is named, no
  /// thread, and `processIsAlive` denies the process (ask the kernel: only ESRCH denies, EPERM is a
  /// living process). The closure is called for 1 to `Int32.max` only: other numbers name no single
  /// process, and are left to their age. So is a host id with U+FFFD in it, since two different ones may
  /// look the same.
  public func isStale(now: Timestamp, hostID own: String, processIsAlive: (Int) -> Bool) -> Bool {
    if now.isLater(than: time, byMoreThan: Limits.lockStaleSeconds) { return true }
    // Compares bytes: `==` would take two spellings of "é" for the same host, and Borg does not.
    let isOwnHost = hostID.utf8.elementsEqual(own.utf8) && !hostID.unicodeScalars.contains("\u{FFFD}")
    guard isOwnHost, threadID == 0, (1...Int(Int32.max)).contains(processID) else { return false }
    return !processIsAlive(processID)
  }
}
