/**
 * Tells an Arm machine's device tree of an SMMUv3 in front of its PCI bus. Bindings iommu/arm,smmu-v3.yaml and
 * pci/pci-iommu.txt of the kernel.
 */
import { cells, findNode, string, type TreeNode } from "./device-tree.ts"

export interface SmmuNodeOptions {
  readonly registerBase: number
  readonly registerBytes: number
}

const PHANDLE = 0x8100
/** Requester ids 0 to 0xffff are StreamIDs. */
const ALL_REQUESTERS = 0x10000

export function addSmmu(root: TreeNode, { registerBase, registerBytes }: SmmuNodeOptions): void {
  const doorbell = findNode(root, "intc", "v2m").properties.get("phandle")
  if (doorbell === undefined) throw new Error("the interrupt controller takes no messages")
  root.children.push({
    name: `iommu@${registerBase.toString(16)}`,
    properties: new Map<string, Uint8Array>([
      ["compatible", string("arm,smmu-v3")],
      ["reg", cells(0, registerBase, 0, registerBytes)],
      ["#iommu-cells", cells(1)],
      ["dma-coherent", new Uint8Array(0)],
      ["msi-parent", doorbell],
      ["phandle", cells(PHANDLE)],
    ]),
    children: [],
  })
  findNode(root, "pcie").properties.set("iommu-map", cells(0, PHANDLE, 0, ALL_REQUESTERS))
}
