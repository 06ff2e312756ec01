//! The graph as SVG: `layout-rs` finds the places, the drawing is our own.

use std::fmt::Write as _;

use layout::{
    core::{
        base::Orientation,
        format::{ClipHandle, RenderBackend},
        geometry::Point,
        style::StyleAttr,
    },
    std_shapes::shapes::{Arrow, Element, ShapeKind},
    topo::layout::VisualGraph,
};
use twdag_stages::registry::KINDS;

use super::{Graph, escape, heading, inputs};

const CHARACTER: f64 = 8.2;
const HEIGHT: f64 = 46.0;
const MARGIN: f64 = 16.0;

pub(super) fn draw(graph: &Graph) -> String {
    let mut picture = VisualGraph::new(Orientation::TopToBottom);
    let mut handles = Vec::new();
    for node in graph.nodes() {
        let kind = node.stage.kind().name;
        let longest = node.name.chars().count().max(kind.len()) as f64;
        let shape = ShapeKind::new_box(&format!("{}\n{kind}", node.name));
        let size = Point::new(longest * CHARACTER + 24.0, HEIGHT);
        let element = Element::create_with_properties(shape, StyleAttr::simple(), Orientation::TopToBottom, size, kind);
        handles.push(picture.add_node(element));
    }
    // The library checks itself by walking every path, of which a graph may have exponentially many. Without that, and
    // with readers in topological order, its test for cycles ends at once.
    picture.dag.set_validate(false);
    for &reader in graph.order() {
        let Some(&to) = handles.get(reader) else { continue };
        for &from in inputs(graph, reader).iter().filter_map(|input| handles.get(*input)) {
            picture.add_edge(Arrow::simple(""), from, to);
        }
    }
    let mut canvas = Canvas::default();
    if !handles.is_empty() {
        picture.do_it(false, false, false, &mut canvas);
    }
    canvas.finish(heading(graph))
}

#[derive(Default)]
struct Canvas {
    nodes: String,
    arrows: String,
    bounds: Option<(Point, Point)>,
}

impl Canvas {
    fn grow(&mut self, point: Point) {
        let (low, high) = self.bounds.unwrap_or((point, point));
        self.bounds = Some((
            Point::new(low.x.min(point.x), low.y.min(point.y)),
            Point::new(high.x.max(point.x), high.y.max(point.y)),
        ));
    }

    fn finish(self, title: &str) -> String {
        let (low, high) = self.bounds.unwrap_or((Point::zero(), Point::zero()));
        let (left, top) = (low.x - MARGIN, low.y - MARGIN);
        let (width, height) = (high.x - low.x + 2.0 * MARGIN, high.y - low.y + 2.0 * MARGIN);
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.1} {top:.1} {width:.1} {height:.1}" "#,
                "width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n",
                "<title>{title}</title>\n",
                "<style>text{{font-family:sans-serif;text-anchor:middle;fill:#1f2328}}.name{{font-size:14px;font-weight:600}}",
                ".kind{{font-size:11px;fill:#57606a}}path{{fill:none;stroke:#8b949e;stroke-width:1.3}}",
                "rect{{stroke:#57606a;stroke-width:1}}</style>\n",
                r#"<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">"#,
                "<path d=\"M0 0L8 4L0 8Z\" style=\"fill:#8b949e;stroke:none\"/></marker></defs>\n",
                "{arrows}{nodes}</svg>\n"
            ),
            left = left,
            top = top,
            width = width,
            height = height,
            title = escape(title),
            arrows = self.arrows,
            nodes = self.nodes,
        )
    }
}

/// A pale colour of its own for each kind.
fn color(kind: Option<&str>) -> String {
    let index = KINDS.iter().position(|entry| Some(entry.info.name) == kind).unwrap_or(0);
    format!("hsl({},65%,92%)", index * 360 / KINDS.len())
}

// Writing into a string cannot fail.
impl RenderBackend for Canvas {
    fn draw_rect(&mut self, at: Point, size: Point, _: &StyleAttr, kind: Option<String>, _: Option<ClipHandle>) {
        self.grow(at);
        self.grow(at.add(size));
        let fill = color(kind.as_deref());
        let _ = writeln!(
            self.nodes,
            r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="6" fill="{fill}"/>"#,
            at.x, at.y, size.x, size.y
        );
    }

    fn draw_line(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_circle(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_text(&mut self, at: Point, text: &str, _: &StyleAttr) {
        let (name, kind) = text.split_once('\n').unwrap_or((text, ""));
        let _ = writeln!(
            self.nodes,
            r#"<text class="name" x="{:.1}" y="{:.1}">{}</text><text class="kind" x="{:.1}" y="{:.1}">{}</text>"#,
            at.x,
            at.y - 3.0,
            escape(name),
            at.x,
            at.y + 14.0,
            escape(kind)
        );
    }

    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        _: bool,
        _: (bool, bool),
        _: &StyleAttr,
        _: Option<String>,
        _: &str,
    ) {
        let [(start, leave), (arrive, end), rest @ ..] = path else { return };
        let mut curve = format!(
            "M{:.1} {:.1}C{:.1} {:.1},{:.1} {:.1},{:.1} {:.1}",
            start.x, start.y, leave.x, leave.y, arrive.x, arrive.y, end.x, end.y
        );
        for (arrive, end) in rest {
            let _ = write!(curve, "S{:.1} {:.1},{:.1} {:.1}", arrive.x, arrive.y, end.x, end.y);
        }
        for (first, second) in path {
            self.grow(*first);
            self.grow(*second);
        }
        let _ = writeln!(self.arrows, r#"<path d="{curve}" marker-end="url(#arrow)"/>"#);
    }

    fn create_clip(&mut self, _: Point, _: Point, _: usize) -> ClipHandle {
        0
    }
}
