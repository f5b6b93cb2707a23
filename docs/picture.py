#!/usr/bin/env python3
"""Prints docs/picture.svg: a node with ENIs, pods, Multus and the VPC.

    docs/picture.py >docs/picture.svg

A test compares the file with what this prints.
"""

from xml.sax.saxutils import escape

WIDTH, HEIGHT = 880, 560
BLUE, GREEN, ORANGE, GREY = "#dbe9f9", "#dff2df", "#fdebd3", "#f4f4f4"
LINE, TEXT = "#44546a", "#1b2733"


def box(x, y, width, height, fill, lines, anchor="middle", dashed=False):
    """A rectangle with lines of text in it, the first one in bold."""
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    yield (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
        f'fill="{fill}" stroke="{LINE}"{dash}/>'
    )
    at = x + width / 2 if anchor == "middle" else x + 12
    top = y + 20 if anchor == "start" else y + (height - 17 * len(lines)) / 2 + 13
    for number, line in enumerate(lines):
        yield text(at, top + 17 * number, line, anchor, bold=number == 0)


def text(x, y, content, anchor="middle", bold=False):
    """A line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(content)}</text>'


def line(*points, dashed=False, arrow=False):
    """A line through these points."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    end = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"{dash}{end}/>'


def picture():
    """The elements, from the back to the front."""
    yield from box(10, 10, 860, 430, GREY, ["Node (EC2 instance)"], "start")

    yield from box(30, 55, 170, 110, "#ffffff", ["containerd, kubelet"], "start")
    yield from box(45, 90, 140, 60, BLUE, ["Multus", "ADD, DEL"])
    yield from box(30, 215, 170, 62, GREEN, ["/opt/cni/bin", "ipvlan, host-device,", "host-local, eni-sync"])
    yield line((115, 150), (115, 213), arrow=True)
    yield text(125, 190, "executes", "start")
    yield from box(30, 345, 170, 62, GREEN, ["eni-sync agent", "ledger, pools,", "/run/eni-cni"])
    yield line((115, 277), (115, 343), dashed=True, arrow=True)
    yield text(125, 302, "socket (optional)", "start")

    pods = [
        (235, "Pod A", ["net1", "10.0.4.70"], "ipvlan"),
        (395, "Pod B", ["net1", "10.0.4.71"], "ipvlan"),
        (555, "Pod C", ["net1", "10.0.7.20"], "host-device"),
        (715, "Pod D (DPDK)", ["vfio-pci", "10.0.8.30"], "host-device"),
    ]
    for x, name, lines, plugin in pods:
        yield from box(x, 55, 140, 150, "#ffffff", [name], "start")
        yield from box(x + 15, 88, 110, 30, GREY, ["eth0"])
        yield from box(x + 15, 128, 110, 62, BLUE, ["", *lines])
        yield text(x + 70, 146, plugin)

    yield from box(218, 315, 104, 92, ORANGE, ["eth0", "primary ENI", "VPC CNI"])
    yield from box(335, 315, 170, 92, ORANGE, ["eth1", "ENI for pods", "tag no_manage=true", "10.0.4.70, 10.0.4.71"])
    yield from box(555, 315, 140, 92, ORANGE, ["ENI for pods", "the interface itself", "is in Pod C", "10.0.7.20"])
    yield from box(715, 315, 140, 92, ORANGE, ["ENI for pods", "its device is bound", "to vfio-pci", "10.0.8.30"])
    yield line((305, 190), (305, 255), (400, 255), (400, 315))
    yield line((465, 190), (465, 255), (420, 255), (420, 315))
    yield text(478, 250, "L2 or L3", "start")
    yield line((625, 190), (625, 315))
    yield line((785, 190), (785, 315))

    yield from box(10, 480, 190, 62, ORANGE, ["EC2 API", "assign, unassign,", "describe addresses"])
    yield line((115, 407), (115, 478), arrow=True)
    yield from box(235, 480, 635, 62, ORANGE, ["VPC", "delivers to an ENI only the addresses that are assigned to it"])
    for x in (270, 420, 625, 785):
        yield line((x, 407), (x, 480))


def main():
    """Prints the picture."""
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img"')
    print('    font-family="Helvetica, Arial, sans-serif" font-size="13">')
    print("<title>A node with ENIs, pods, Multus and the VPC</title>")
    print(f'<style>text {{ fill: {TEXT} }}</style>')
    print('<defs><marker id="arrow" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto">')
    print(f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>')
    print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>')
    for element in picture():
        print(element)
    print("</svg>")


if __name__ == "__main__":
    main()
