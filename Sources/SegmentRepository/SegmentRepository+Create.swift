public import BorgFormat
public import Disk

extension SegmentRepository {
  /// What a new repository is to be.
  public struct CreationOptions: Sendable {
    public var appendOnly = false
    /// Bytes, written to the config; nil or 0: none.
    public var storageQuota: UInt64?

    public init() {}
  }

  /// Makes a repository in `root`, an empty directory: README, `data` and config, durably.
  public static func create(in root: Directory, label: String, _ options: CreationOptions) throws(ServeError)
  {
    throw .unsupported("")
  }
}
